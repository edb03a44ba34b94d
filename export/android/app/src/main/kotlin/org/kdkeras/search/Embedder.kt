package org.kdkeras.search

import android.content.Context
import com.google.mediapipe.tasks.text.textembedder.TextEmbedder

/**
 * Embeds texts with a student in MediaPipe's TextEmbedder.
 *
 * The model file contains the tokenizer. This class is not thread-safe.
 *
 * @throws IllegalStateException if the app does not contain a model.
 */
class Embedder(context: Context) : AutoCloseable {
    private val task: TextEmbedder = TextEmbedder.createFromFile(context, modelAsset(context))

    fun embed(text: String): FloatArray =
        task.embed(text).embeddingResult().embeddings().first().floatEmbedding()

    override fun close() = task.close()

    private companion object {
        /** Files that `kdkeras export` writes: .tflite for WordPiece, .task for SentencePiece. */
        val MODELS = listOf("embedder.tflite", "embedder.task")

        fun modelAsset(context: Context): String {
            val assets = context.assets.list("").orEmpty()
            return checkNotNull(MODELS.firstOrNull { it in assets }) {
                "The app must contain a model. Copy FOLDER/mediapipe/embedder.* into app/src/main/assets."
            }
        }
    }
}
