package org.kdkeras.search

import kotlin.math.sqrt

data class Sentence(val language: String, val text: String)

data class Hit(val sentence: Sentence, val cosine: Float)

/** Sentences and their embeddings, with exhaustive search. */
class SentenceIndex {
    private val sentences = mutableListOf<Sentence>()
    private val vectors = mutableListOf<FloatArray>()

    val size: Int
        get() = sentences.size

    fun add(sentence: Sentence, vector: FloatArray) {
        sentences += sentence
        vectors += unit(vector)
    }

    /** Returns the nearest sentences, nearest first. */
    fun search(query: FloatArray, count: Int): List<Hit> {
        val direction = unit(query)
        return vectors.indices
            .map { Hit(sentences[it], dot(direction, vectors[it])) }
            .sortedByDescending { it.cosine }
            .take(count)
    }

    private fun unit(vector: FloatArray): FloatArray {
        val length = sqrt(dot(vector, vector))
        return if (length > 0f) FloatArray(vector.size) { vector[it] / length } else vector
    }

    private fun dot(a: FloatArray, b: FloatArray): Float {
        var sum = 0f
        for (i in a.indices) sum += a[i] * b[i]
        return sum
    }
}
