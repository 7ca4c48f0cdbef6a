// A package of vtad-export in an app: its card, a picture fitted to its input, the verdict. Compiled by nobody yet: see README.md.
import CoreML
import CoreVideo

struct Identity: Decodable { let category: String; let created: String }
struct Input: Decodable { let name: String; let width: Int; let height: Int }
struct Calibration: Decodable { let scores: [Float]; let threshold: Float; let pixel_threshold: Float }
struct Parity: Decodable { let precision: String; let tolerance: [String: Double] }
struct Card: Decodable {
    let schema: Int, identity: Identity, input: Input, calibration: Calibration, parity: Parity?, weights_sha256: String
    let compute_units: String?
}
/// By their names on the card.
let computeUnits: [(String, MLComputeUnits)] = [
    ("CPU_AND_NE", .cpuAndNeuralEngine), ("CPU_AND_GPU", .cpuAndGPU), ("CPU_ONLY", .cpuOnly), ("ALL", .all)
]
enum Verdict: String { case ok = "OK", ng = "NG", error = "ERROR" }
struct Result { let verdict: Verdict, score: Float, pValue: Float, heatmap: [Float] }
enum DetectorError: Error { case noModel, noCard, otherSchema(Int), wrongSize, noOutput, noBuffer }

final class Detector {
    let url: URL, card: Card, metadata: [String: String]
    private let model: MLModel

    /// `url`: the .mlmodelc that Xcode makes of the package. `units`: nil for what its card says. `function`: one of a
    /// package of several, from iOS 18 on.
    init(_ url: URL, units: MLComputeUnits? = nil, function: String? = nil) throws {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = units ?? .cpuAndNeuralEngine
        if #available(iOS 18, macOS 15, *), let function { configuration.functionName = function }
        self.url = url
        let first = try MLModel(contentsOf: url, configuration: configuration)
        metadata = first.modelDescription.metadata[.creatorDefinedKey] as? [String: String] ?? [:]
        guard let text = metadata["vtad.card"] else { throw DetectorError.noCard }
        card = try JSONDecoder().decode(Card.self, from: Data(text.utf8))
        guard card.schema == 3 else { throw DetectorError.otherSchema(card.schema) }
        let named = card.compute_units, own = units ?? computeUnits.first { $0.0 == named }?.1
        let loaded = configuration.computeUnits
        configuration.computeUnits = own ?? loaded
        model = configuration.computeUnits == loaded ? first : try MLModel(contentsOf: url, configuration: configuration)
    }

    /// `buffer`: 32BGRA of the input's size. The heatmap is row by row.
    func judge(_ buffer: CVPixelBuffer) throws -> Result {
        guard CVPixelBufferGetWidth(buffer) == card.input.width,
              CVPixelBufferGetHeight(buffer) == card.input.height else { throw DetectorError.wrongSize }
        let given = try MLDictionaryFeatureProvider(dictionary: [card.input.name: MLFeatureValue(pixelBuffer: buffer)])
        let found = try model.prediction(from: given)
        guard let scores = found.featureValue(for: "score")?.multiArrayValue,
              let map = found.featureValue(for: "heatmap")?.multiArrayValue else { throw DetectorError.noOutput }
        let score = MLShapedArray<Float>(scores).scalars[0], heatmap = MLShapedArray<Float>(map).scalars
        guard score.isFinite, heatmap.allSatisfy(\.isFinite) else {
            return Result(verdict: .error, score: score, pValue: .nan, heatmap: heatmap)
        }
        let good = card.calibration.scores
        let pValue = Float(1 + good.filter { $0 >= score }.count) / Float(good.count + 1)
        let verdict: Verdict = score > card.calibration.threshold ? .ng : .ok
        return Result(verdict: verdict, score: score, pValue: pValue, heatmap: heatmap)
    }

    /// The middle of a camera's frame (32BGRA, larger than the input), shrunk as vtad shrinks (OpenCV's INTER_AREA).
    func fitted(_ frame: CVPixelBuffer) throws -> CVPixelBuffer {
        let width = card.input.width, height = card.input.height
        let scale = min(Double(CVPixelBufferGetWidth(frame)) / Double(width),
                        Double(CVPixelBufferGetHeight(frame)) / Double(height))
        guard scale >= 1 else { throw DetectorError.wrongSize }
        let left = (CVPixelBufferGetWidth(frame) - Int(scale * Double(width))) / 2
        let top = (CVPixelBufferGetHeight(frame) - Int(scale * Double(height))) / 2
        let columns = shares(Int(scale * Double(width)), width), rows = shares(Int(scale * Double(height)), height)
        let out = try emptyBuffer(width, height)
        CVPixelBufferLockBaseAddress(frame, .readOnly)
        CVPixelBufferLockBaseAddress(out, [])
        defer {
            CVPixelBufferUnlockBaseAddress(out, [])
            CVPixelBufferUnlockBaseAddress(frame, .readOnly)
        }
        guard let source = CVPixelBufferGetBaseAddress(frame)?.assumingMemoryBound(to: UInt8.self),
              let target = CVPixelBufferGetBaseAddress(out)?.assumingMemoryBound(to: UInt8.self)
        else { throw DetectorError.noBuffer }
        let from = CVPixelBufferGetBytesPerRow(frame), to = CVPixelBufferGetBytesPerRow(out)
        var sums = [Float](repeating: 0, count: 4 * width), line = sums
        for y in 0..<height {
            for i in sums.indices { sums[i] = 0 }
            for (row, weight) in rows[y] {
                for i in line.indices { line[i] = 0 }
                for x in 0..<width {
                    for (column, part) in columns[x] {
                        let pixel = source + (top + row) * from + 4 * (left + column)
                        for c in 0..<4 { line[4 * x + c] += Float(pixel[c]) * part }
                    }
                }
                for i in sums.indices { sums[i] += weight * line[i] }
            }
            for i in sums.indices { target[y * to + i] = UInt8(min(255, sums[i].rounded(.toNearestOrEven))) }
        }
        return out
    }
}

/// By target pixel: source pixels and their shares.
private func shares(_ from: Int, _ to: Int) -> [[(Int, Float)]] {
    let scale = Double(from) / Double(to)
    return (0..<to).map { i in
        let start = Double(i) * scale, end = start + scale, cell = min(scale, Double(from) - start)
        let last = min(Int(end), from - 1), first = min(Int(start.rounded(.up)), last)
        var parts: [(Int, Float)] = []
        if Double(first) - start > 1e-3 { parts.append((first - 1, Float((Double(first) - start) / cell))) }
        for s in first..<last { parts.append((s, Float(1 / cell))) }
        if end - Double(last) > 1e-3 { parts.append((last, Float(min(end - Double(last), 1, cell) / cell))) }
        return parts
    }
}

/// A 32BGRA buffer.
func emptyBuffer(_ width: Int, _ height: Int) throws -> CVPixelBuffer {
    var made: CVPixelBuffer?
    CVPixelBufferCreate(nil, width, height, kCVPixelFormatType_32BGRA, nil, &made)
    guard let made else { throw DetectorError.noBuffer }
    return made
}
