import Foundation

/// Owns the model and the index. As an actor, it runs one call at a time.
actor Searcher {
  private var embedder: Embedder?
  private var index = SentenceIndex()

  struct Answer: Sendable {
    let hits: [Hit]
    let milliseconds: Double
  }

  /// Embeds all sentences. Searches can run between two sentences.
  func load(progress: @Sendable (_ done: Int, _ of: Int) async -> Void) async throws {
    let embedder = try Embedder()
    self.embedder = embedder
    guard let folder = Bundle.main.resourceURL?.appendingPathComponent("Assets/sentences") else {
      return
    }
    let sentences = try readSentences(in: folder)
    for sentence in sentences {
      index.add(sentence, vector: try embedder.embed(sentence.text))
      if index.count % 100 == 0 || index.count == sentences.count {
        await progress(index.count, sentences.count)
      }
      await Task.yield()
    }
  }

  func search(_ text: String, count: Int) throws -> Answer {
    guard let embedder, !text.allSatisfy(\.isWhitespace) else {
      return Answer(hits: [], milliseconds: 0)
    }
    let started = Date()
    let hits = index.search(try embedder.embed(text), count: count)
    return Answer(hits: hits, milliseconds: Date().timeIntervalSince(started) * 1000)
  }
}
