import SwiftUI

/// An input field with the nearest sentences below it.
@MainActor
struct SearchView: View {
  @State private var searcher = Searcher()
  @State private var query = ""
  @State private var hits: [Hit] = []
  @State private var status = "Loading the model"
  @State private var loaded = 0

  var body: some View {
    NavigationStack {
      List(hits) { hit in
        VStack(alignment: .leading) {
          Text(hit.sentence.text)
          Text("\(languageName(hit.sentence.language)) · \(hit.cosine, specifier: "%.2f")")
            .font(.caption)
            .foregroundColor(.secondary)
        }
      }
      .navigationTitle("Search across languages")
      .searchable(text: $query, prompt: "Your sentence, in any language")
      .safeAreaInset(edge: .bottom) {
        Text(status).font(.caption).padding(8)
      }
    }
    .task { await load() }
    // Cancels a running search and starts a new one after every letter and new sentence.
    .task(id: "\(loaded) \(query)") { await search() }
  }

  private func load() async {
    do {
      try await searcher.load { done, all in
        await show("Embedding: \(done) of \(all)", loaded: done)
      }
    } catch {
      status = error.localizedDescription
    }
  }

  private func show(_ line: String, loaded count: Int) {
    status = line
    loaded = count
  }

  private func search() async {
    do {
      let answer = try await searcher.search(query, count: 10)
      if Task.isCancelled { return }
      hits = answer.hits
      if !hits.isEmpty {
        status = String(format: "%.1f ms among %d sentences", answer.milliseconds, loaded)
      }
    } catch {
      status = error.localizedDescription
    }
  }

  private func languageName(_ code: String) -> String {
    Locale.current.localizedString(forLanguageCode: code) ?? code
  }
}
