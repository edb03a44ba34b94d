plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "org.kdkeras.search"
    compileSdk = 35

    defaultConfig {
        applicationId = "org.kdkeras.search"
        minSdk = 24
        targetSdk = 34
        versionCode = 1
        versionName = "1.0"
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    kotlinOptions {
        jvmTarget = "17"
    }

    androidResources {
        // MediaPipe maps the model into memory, which requires an uncompressed asset.
        noCompress += listOf("tflite", "task")
    }
}

dependencies {
    implementation("com.google.mediapipe:tasks-text:1.0.0")
}
