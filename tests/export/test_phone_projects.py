"""The sources of the sample apps parse and refer to existing files."""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path

import pytest
import tree_sitter
import tree_sitter_kotlin
import tree_sitter_swift
import yaml

EXPORT = Path(__file__).parents[2] / "export"
LANGUAGES = {
    ".kt": tree_sitter_kotlin.language,
    ".kts": tree_sitter_kotlin.language,
    ".swift": tree_sitter_swift.language,
}
SOURCES = sorted(
    path
    for app in ("android", "ios")
    for path in (EXPORT / app).rglob("*")
    if path.suffix in LANGUAGES
)


def errors(content, suffix):
    """Returns `line: text` of every syntax error."""
    language = tree_sitter.Language(LANGUAGES[suffix]())
    nodes, found = [tree_sitter.Parser(language).parse(content).root_node], []
    while nodes:
        node = nodes.pop()
        if node.is_error or node.is_missing:
            found.append(f"{node.start_point.row + 1}: {node.text.decode()[:60]}")
        nodes += node.children
    return found


def test_both_apps_exist():
    names = {path.name for path in SOURCES}
    assert {"Embedder.kt", "MainActivity.kt", "build.gradle.kts", "Embedder.swift"} <= names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(EXPORT).as_posix())
def test_source_parses(path):
    assert errors(path.read_bytes(), path.suffix) == []


@pytest.mark.parametrize("suffix", [".kt", ".swift"])
def test_a_missing_bracket_is_found(suffix):
    name = {".kt": "Embedder.kt", ".swift": "Embedder.swift"}[suffix]
    (path,) = (path for path in SOURCES if path.name == name)
    assert errors(path.read_bytes().rstrip()[:-1], suffix)


def test_the_manifest_names_the_activity():
    manifest = xml.etree.ElementTree.parse(EXPORT / "android/app/src/main/AndroidManifest.xml")
    name = "{http://schemas.android.com/apk/res/android}name"
    activity = manifest.find("application/activity").get(name)
    (source,) = (path for path in SOURCES if path.stem == activity.removeprefix("."))
    gradle = (EXPORT / "android/app/build.gradle.kts").read_text()
    package = source.read_text().splitlines()[0].removeprefix("package ")
    assert f'namespace = "{package}"' in gradle
    # Without permissions, no text can leave the phone.
    assert manifest.find("uses-permission") is None


def test_the_xcode_project_includes_the_swift_folder():
    project = yaml.safe_load((EXPORT / "ios" / "project.yml").read_text())
    (target,) = project["targets"]
    folders = [EXPORT / "ios" / source["path"] for source in project["targets"][target]["sources"]]
    assert {path.parent for path in SOURCES if path.suffix == ".swift"} <= set(folders)
    assert f"target '{target}' do" in (EXPORT / "ios" / "Podfile").read_text()
