package org.kdkeras.search

import android.app.Activity
import android.os.Bundle
import android.os.SystemClock
import android.text.Editable
import android.text.TextWatcher
import android.widget.ArrayAdapter
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.ListView
import android.widget.TextView
import java.util.Locale
import java.util.concurrent.Executors
import java.util.concurrent.atomic.AtomicInteger

private const val SENTENCES = "sentences"
private const val RESULTS = 10
private const val MARGIN_DP = 16

/** An input field with the nearest sentences below it. */
class MainActivity : Activity() {
    // The only thread that uses the model and the index.
    private val worker = Executors.newSingleThreadExecutor()
    private val latest = AtomicInteger()
    private val index = SentenceIndex()
    private var embedder: Embedder? = null
    private var waiting = listOf<Sentence>()

    private lateinit var query: EditText
    private lateinit var status: TextView
    private lateinit var results: ArrayAdapter<String>

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        buildViews()
        worker.execute { reportingFailure(::load) }
    }

    override fun onDestroy() {
        worker.execute { embedder?.close() }
        worker.shutdown()
        super.onDestroy()
    }

    private fun buildViews() {
        query = EditText(this).apply {
            hint = "Your sentence, in any language"
            addTextChangedListener(object : TextWatcher {
                override fun afterTextChanged(text: Editable) = searchFor(text.toString())

                override fun beforeTextChanged(s: CharSequence, start: Int, count: Int, after: Int) = Unit

                override fun onTextChanged(s: CharSequence, start: Int, before: Int, count: Int) = Unit
            })
        }
        status = TextView(this)
        results = ArrayAdapter(this, android.R.layout.simple_list_item_1)
        val margin = (MARGIN_DP * resources.displayMetrics.density).toInt()
        val page = LinearLayout(this).apply {
            orientation = LinearLayout.VERTICAL
            fitsSystemWindows = true
            setPadding(margin, margin, margin, margin)
            addView(query)
            addView(status)
            addView(ListView(this@MainActivity).apply { adapter = results })
        }
        setContentView(page)
    }

    private fun load() {
        embedder = Embedder(this)
        waiting = readSentences()
        embedNext()
    }

    /** Reads the `foreign<TAB>English` rows of all languages. */
    private fun readSentences(): List<Sentence> =
        assets.list(SENTENCES).orEmpty().flatMap { file ->
            val language = file.removeSuffix(".tsv")
            assets.open("$SENTENCES/$file").bufferedReader().readLines().flatMap { row ->
                val (foreign, english) = row.split('\t')
                listOf(Sentence(language, foreign), Sentence("en", english))
            }
        }.distinct()

    /** Embeds one sentence, then lets a waiting search run. */
    private fun embedNext() {
        val sentence = waiting.getOrNull(index.size)
        if (sentence == null) {
            show("${index.size} sentences")
            runOnUiThread { searchFor(query.text.toString()) }
            return
        }
        index.add(sentence, checkNotNull(embedder).embed(sentence.text))
        if (index.size % 100 == 0) show("Embedding: ${index.size} of ${waiting.size}")
        if (!worker.isShutdown) worker.execute { reportingFailure(::embedNext) }
    }

    private fun searchFor(text: String) {
        val turn = latest.incrementAndGet()
        worker.execute {
            reportingFailure {
                if (turn == latest.get()) search(text)
            }
        }
    }

    private fun search(text: String) {
        val model = embedder
        if (model == null || text.isBlank()) {
            runOnUiThread { results.clear() }
            return
        }
        val started = SystemClock.elapsedRealtimeNanos()
        val hits = index.search(model.embed(text), RESULTS)
        val milliseconds = (SystemClock.elapsedRealtimeNanos() - started) / 1e6
        val lines = hits.map { (sentence, cosine) ->
            val language = Locale(sentence.language).displayLanguage
            String.format(Locale.ROOT, "%s\n%s · %.2f", sentence.text, language, cosine)
        }
        show(String.format(Locale.ROOT, "%.1f ms among %d sentences", milliseconds, index.size))
        runOnUiThread {
            results.clear()
            results.addAll(lines)
        }
    }

    private fun show(line: String) = runOnUiThread { status.text = line }

    /** Shows errors on the screen: a missing model, a damaged file, an invalid row. */
    private fun reportingFailure(work: () -> Unit) {
        try {
            work()
        } catch (failure: Exception) {
            show(failure.message ?: failure.toString())
        }
    }
}
