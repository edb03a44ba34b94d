package org.kdkeras.search

import android.content.Context
import com.google.mediapipe.tasks.text.textembedder.TextEmbedder

/**
 * A student in MediaPipe's TextEmbedder: from a text to its vector.
 *
 * The tokenizer is in the model file. Not safe for several threads at once.
 *
 * @throws IllegalStateException if the app holds no model.
 */
class Embedder(context: Context) : AutoCloseable {
    private val task: TextEmbedder = TextEmbedder.createFromFile(context, modelAsset(context))

    fun embed(text: String): FloatArray =
        task.embed(text).embeddingResult().embeddings().first().floatEmbedding()

    override fun close() = task.close()

    private companion object {
        /** What `kdkeras export` writes: .tflite for WordPiece, .task for SentencePiece. */
        val MODELS = listOf("embedder.tflite", "embedder.task")

        fun modelAsset(context: Context): String {
            val assets = context.assets.list("").orEmpty()
            return checkNotNull(MODELS.firstOrNull { it in assets }) {
                "The app must hold a model. Copy FOLDER/mediapipe/embedder.* into app/src/main/assets."
            }
        }
    }
}
