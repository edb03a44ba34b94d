import Foundation

struct Sentence: Hashable, Sendable {
  let language: String
  let text: String
}

struct Hit: Identifiable, Sendable {
  let sentence: Sentence
  let cosine: Float

  var id: Sentence { sentence }
}

/// Sentences and their embeddings, with exhaustive search.
struct SentenceIndex {
  private var sentences: [Sentence] = []
  private var vectors: [[Float]] = []

  var count: Int { sentences.count }

  mutating func add(_ sentence: Sentence, vector: [Float]) {
    sentences.append(sentence)
    vectors.append(Self.unit(vector))
  }

  /// Returns the nearest sentences, nearest first.
  func search(_ query: [Float], count: Int) -> [Hit] {
    let direction = Self.unit(query)
    let hits = zip(sentences, vectors).map { sentence, vector in
      Hit(sentence: sentence, cosine: Self.dot(direction, vector))
    }
    return Array(hits.sorted { $0.cosine > $1.cosine }.prefix(count))
  }

  private static func unit(_ vector: [Float]) -> [Float] {
    let length = dot(vector, vector).squareRoot()
    return length > 0 ? vector.map { $0 / length } : vector
  }

  private static func dot(_ a: [Float], _ b: [Float]) -> Float {
    zip(a, b).reduce(0) { $0 + $1.0 * $1.1 }
  }
}

/// Reads the distinct sentences of `{language}.tsv` files with `foreign<TAB>English` rows.
func readSentences(in folder: URL) throws -> [Sentence] {
  let files = try FileManager.default
    .contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
    .filter { $0.pathExtension == "tsv" }
    .sorted { $0.lastPathComponent < $1.lastPathComponent }
  var seen = Set<Sentence>()
  var sentences: [Sentence] = []
  for file in files {
    let language = file.deletingPathExtension().lastPathComponent
    let content = try String(contentsOf: file, encoding: .utf8)
    for row in content.split(separator: "\n") {
      let sides = row.split(separator: "\t").map(String.init)
      for (name, text) in zip([language, "en"], sides) {
        let sentence = Sentence(language: name, text: text)
        if seen.insert(sentence).inserted { sentences.append(sentence) }
      }
    }
  }
  return sentences
}
