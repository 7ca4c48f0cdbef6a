// The reference pictures inside the package on this device: the report that vtad-export --device-check writes on a Mac.
import CoreML
import ImageIO
import UIKit

private struct Reference: Decodable { let webp: Data; let score: Float; let sampled: [String: Data] }
private struct References: Decodable { let step: Int; let pictures: [Reference] }

struct Placement: Encodable { let operation: String, output: String, device: String, supported: [String], cost: Double }
struct UnitsCheck: Encodable {
    let compute_units: String, load_ms: Double, latency_ms: Double, slowest_ms: Double
    let max_error: [String: Double?], verdict_flips: Int, flips_allowed: Int, over: [String]
}
struct FunctionReport: Encodable {
    let name: String, placements: [Placement], checks: [UnitsCheck], no_plan: String?, failed: [String: String]?
}
struct Package: Encodable { let name: String, category: String, precision: String, weights_sha256: String }
struct Machine: Encodable { let model: String, chip: String, system: String, made_by: String }
struct DeviceReport: Encodable {
    let kind = "vtad device check", schema = 1
    let created: String, package: Package, machine: Machine, pictures: Int, functions: [FunctionReport]
}

private let compressed = ["int8", "palettized6", "palettized4"] // of which a hundredth may flip, rounded up

/// Measure every function on every choice of compute units. Takes a minute or more.
func deviceCheck(_ url: URL) async throws -> DeviceReport {
    let first = try Detector(url, units: .cpuOnly), card = first.card
    guard let text = first.metadata["vtad.references"], let parity = card.parity else { throw DetectorError.noCard }
    let references = try JSONDecoder().decode(References.self, from: Data(text.utf8))
    var names: [String] = []
    if #available(iOS 18, *) { names = try await MLModelAsset(url: url).functionNames }
    var functions: [FunctionReport] = []
    for name in names.isEmpty ? [nil] : names.map(Optional.some) {
        var checks: [UnitsCheck] = [], failed: [String: String] = [:]
        for units in computeUnits {
            do { checks.append(try check(url, units, name, references, parity)) } catch { failed[units.0] = "\(error)" }
        }
        let (placements, noPlan) = await plan(url, name ?? "main")
        functions.append(FunctionReport(name: name ?? "main", placements: placements, checks: checks, no_plan: noPlan,
                                        failed: failed.isEmpty ? nil : failed))
    }
    var system = utsname()
    uname(&system)
    let model = withUnsafeBytes(of: &system.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    let package = Package(name: url.lastPathComponent, category: card.identity.category, precision: parity.precision,
                          weights_sha256: card.weights_sha256)
    let version = await "iOS \(UIDevice.current.systemVersion)"
    return DeviceReport(created: ISO8601DateFormatter().string(from: Date()), package: package,
                        machine: Machine(model: model, chip: "", system: version, made_by: "examples/ios"),
                        pictures: references.pictures.count, functions: functions)
}

private func check(_ url: URL, _ units: (String, MLComputeUnits), _ function: String?, _ references: References,
                   _ parity: Parity) throws -> UnitsCheck {
    let clock = ContinuousClock()
    func ms(_ work: () throws -> Void) rethrows -> Double { try clock.measure(work) / .milliseconds(1) }
    var detector: Detector!
    let load = try ms { detector = try Detector(url, units: units.1, function: function) }
    let calibration = detector.card.calibration, width = detector.card.input.width, height = detector.card.input.height
    let buffers = try references.pictures.map { try decoded($0.webp, width, height) }
    for _ in 0..<3 { _ = try detector.judge(buffers[0]) }
    let times = try (0..<20).map { _ in try ms { _ = try detector.judge(buffers[0]) } }.sorted()
    var errors: [String: Double] = ["score": 0, "heatmap": 0], flips = 0
    let mean = calibration.scores.reduce(0, +) / Float(calibration.scores.count)
    let variance = calibration.scores.map { ($0 - mean) * ($0 - mean) }.reduce(0, +) / Float(calibration.scores.count)
    let spread = max(variance.squareRoot(), 1e-6)
    for (reference, buffer) in zip(references.pictures, buffers) {
        let found = try detector.judge(buffer), step = references.step
        func widen(_ name: String, _ expected: Float, _ got: Float, _ unit: Float, _ decides: Float) {
            let level = max(decides, unit), error = abs(expected - got) / max(1, abs(expected) / level) / unit
            errors[name] = max(errors[name] ?? 0, error.isFinite ? Double(error) : .infinity)
        }
        widen("score", reference.score, found.score, spread, calibration.threshold)
        let expected = reference.sampled["heatmap"]?.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) } ?? []
        let grid = stride(from: step / 2, to: height, by: step).flatMap { y in
            stride(from: step / 2, to: width, by: step).map { x in found.heatmap[y * width + x] }
        }
        for (a, b) in zip(expected, grid) { widen("heatmap", a, b, 1, calibration.pixel_threshold) }
        if (reference.score > calibration.threshold) != (found.score > calibration.threshold) { flips += 1 }
    }
    let over = errors.filter { $0.value > parity.tolerance[$0.key] ?? .greatestFiniteMagnitude }.map(\.key).sorted()
    return UnitsCheck(compute_units: units.0, load_ms: load, latency_ms: times[times.count / 2], slowest_ms: times.last!,
                      max_error: errors.mapValues { $0.isFinite ? $0 : nil }, verdict_flips: flips,
                      flips_allowed: compressed.contains(parity.precision) ? 1 : 0, over: over)
}

/// A WebP file as a 32BGRA buffer, its levels as they are stored.
private func decoded(_ webp: Data, _ width: Int, _ height: Int) throws -> CVPixelBuffer {
    let buffer = try emptyBuffer(width, height)
    CVPixelBufferLockBaseAddress(buffer, [])
    defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
    guard let source = CGImageSourceCreateWithData(webp as CFData, nil),
          let image = CGImageSourceCreateImageAtIndex(source, 0, nil), image.width == width, image.height == height,
          let space = image.colorSpace,
          let context = CGContext(data: CVPixelBufferGetBaseAddress(buffer), width: width, height: height,
                                  bitsPerComponent: 8, bytesPerRow: CVPixelBufferGetBytesPerRow(buffer), space: space,
                                  bitmapInfo: CGImageAlphaInfo.noneSkipFirst.rawValue
                                      | CGBitmapInfo.byteOrder32Little.rawValue)
    else { throw DetectorError.wrongSize }
    context.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
    return buffer
}

/// Where Core ML would run each operation with CPU_AND_NE; or why there is no plan.
private func plan(_ url: URL, _ function: String) async -> ([Placement], String?) {
    guard #available(iOS 17.4, *) else { return ([], "it needs iOS 17.4") }
    let configuration = MLModelConfiguration()
    configuration.computeUnits = .cpuAndNeuralEngine
    do {
        let plan = try await MLComputePlan.load(contentsOf: url, configuration: configuration)
        guard case .program(let program) = plan.modelStructure,
              let operations = program.functions[function]?.block.operations else { return ([], "no such function") }
        func name(_ device: MLComputeDevice) -> String {
            switch device {
            case .cpu: return "CPU"
            case .gpu: return "GPU"
            case .neuralEngine: return "Neural Engine"
            @unknown default: return "unknown"
            }
        }
        return (operations.filter { !$0.operatorName.hasSuffix("const") }.map { operation in
            let usage = plan.deviceUsage(for: operation)
            return Placement(operation: operation.operatorName, output: operation.outputs.first?.name ?? "",
                             device: usage.map { name($0.preferred) } ?? "unknown",
                             supported: usage?.supported.map(name) ?? [],
                             cost: plan.estimatedCost(of: operation)?.weight ?? 0)
        }, nil)
    } catch {
        return ([], error.localizedDescription)
    }
}
