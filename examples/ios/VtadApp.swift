// Camera, verdict, heatmap, card: the smallest app around Detector. Compiled by nobody yet: see README.md.
import AVFoundation
import SwiftUI

@main struct VtadApp: App {
    var body: some Scene { WindowGroup { LineView() } }
}

/// What the screen shows.
@MainActor final class Line: ObservableObject {
    @Published var result: Result?
    @Published var frame: CGImage?
    @Published var said = ""
    @Published var report: URL?
    let detector: Detector?
    private let camera = Camera()

    init() {
        let url = Bundle.main.urls(forResourcesWithExtension: "mlmodelc", subdirectory: nil)?.first
        do {
            guard let url else { throw DetectorError.noModel }
            detector = try Detector(url)
        } catch {
            detector = nil
            said = "no model that runs: \(error)"
        }
    }

    func start() async {
        guard let detector, await AVCaptureDevice.requestAccess(for: .video) else { return }
        do {
            for await frame in try camera.frames() { // the newest: older ones are dropped
                let found = try await Task.detached {
                    let picture = try detector.fitted(frame)
                    let context = CIContext(), image = CIImage(cvPixelBuffer: picture)
                    return (try detector.judge(picture), context.createCGImage(image, from: image.extent))
                }.value
                (result, self.frame) = found
            }
        } catch {
            (result, said) = (nil, "not judged: \(error)")
        }
    }

    func check() async {
        guard let detector else { return }
        said = "checking: keep the app open"
        do {
            let file = FileManager.default.temporaryDirectory.appending(path: "device-check.json")
            try JSONEncoder().encode(await deviceCheck(detector.url)).write(to: file)
            (report, said) = (file, "")
        } catch {
            said = "the check failed: \(error)"
        }
    }
}

struct LineView: View {
    @StateObject private var line = Line()

    var body: some View {
        VStack(spacing: 12) {
            ZStack {
                if let frame = line.frame { Image(decorative: frame, scale: 1).resizable().scaledToFit() }
                if let detector = line.detector, let result = line.result, let map = drawn(result, detector.card) {
                    Image(decorative: map, scale: 1).resizable().scaledToFit()
                }
            }
            if let result = line.result, let detector = line.detector {
                Text(result.verdict.rawValue).font(.largeTitle.bold()).foregroundStyle(result.verdict == .ok ? .green : .red)
                Text("score \(result.score, specifier: "%.3f"), threshold "
                     + "\(detector.card.calibration.threshold, specifier: "%.3f"), p \(result.pValue, specifier: "%.3f")")
                Text("\(detector.card.identity.category), trained \(detector.card.identity.created), "
                     + "\(detector.card.calibration.scores.count) good pictures behind the threshold").font(.footnote)
            }
            Text(line.said)
            Button("Check this device") { Task { await line.check() } }
            if let report = line.report { ShareLink("Send the report", item: report) }
        }
        .padding()
        .task { await line.start() }
    }
}

/// The heatmap in red: nothing below half of the pixel threshold, full colour from twice of it on.
private func drawn(_ result: Result, _ card: Card) -> CGImage? {
    let pixels = result.heatmap.flatMap { value -> [UInt8] in
        let alpha = UInt8(200 * min(1, max(0, (value / card.calibration.pixel_threshold - 0.5) / 1.5)))
        return [alpha, 0, 0, alpha] // premultiplied
    }
    guard let data = CGDataProvider(data: Data(pixels) as CFData) else { return nil }
    return CGImage(width: card.input.width, height: card.input.height, bitsPerComponent: 8, bitsPerPixel: 32,
                   bytesPerRow: 4 * card.input.width, space: CGColorSpaceCreateDeviceRGB(),
                   bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.premultipliedLast.rawValue),
                   provider: data, decode: nil, shouldInterpolate: false, intent: .defaultIntent)
}

/// The back camera.
final class Camera: NSObject, AVCaptureVideoDataOutputSampleBufferDelegate {
    private let session = AVCaptureSession()
    private var show: ((CVPixelBuffer) -> Void)?

    func frames() throws -> AsyncStream<CVPixelBuffer> {
        guard let device = AVCaptureDevice.default(.builtInWideAngleCamera, for: .video, position: .back) else {
            throw DetectorError.noBuffer
        }
        session.addInput(try AVCaptureDeviceInput(device: device))
        let output = AVCaptureVideoDataOutput()
        output.videoSettings = [kCVPixelBufferPixelFormatTypeKey as String: kCVPixelFormatType_32BGRA]
        output.setSampleBufferDelegate(self, queue: DispatchQueue(label: "camera"))
        session.addOutput(output)
        let stream = AsyncStream(CVPixelBuffer.self, bufferingPolicy: .bufferingNewest(1)) { continuation in
            show = { continuation.yield($0) }
        }
        DispatchQueue.global().async { [session] in session.startRunning() }
        return stream
    }

    func captureOutput(_ output: AVCaptureOutput, didOutput sample: CMSampleBuffer, from connection: AVCaptureConnection) {
        if let frame = CMSampleBufferGetImageBuffer(sample) { show?(frame) }
    }
}
