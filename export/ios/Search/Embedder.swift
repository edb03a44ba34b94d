import Foundation
import MediaPipeTasksText

/// Embeds texts with a student in MediaPipe's TextEmbedder.
///
/// The model file contains the tokenizer. This class is not thread-safe.
final class Embedder {
  private let task: TextEmbedder

  /// - Throws: `Problem.noModel`, or MediaPipe's error for a damaged file.
  init() throws {
    // Files that `kdkeras export` writes: .tflite for WordPiece, .task for SentencePiece.
    let found = ["tflite", "task"].compactMap {
      Bundle.main.path(forResource: "embedder", ofType: $0, inDirectory: "Assets")
    }
    guard let path = found.first else { throw Problem.noModel }
    task = try TextEmbedder(modelPath: path)
  }

  func embed(_ text: String) throws -> [Float] {
    let result = try task.embed(text: text)
    guard let values = result.embeddingResult.embeddings.first?.floatEmbedding else {
      throw Problem.noVector
    }
    return values.map { $0.floatValue }
  }
}

enum Problem: LocalizedError {
  case noModel
  case noVector

  var errorDescription: String? {
    switch self {
    case .noModel:
      return "The app must contain a model. Copy FOLDER/mediapipe/embedder.* into Assets."
    case .noVector:
      return "The model must return a float embedding. Export the student again."
    }
  }
}
