"""Real pairs from Tatoeba (CC BY 2.0 FR, © the contributors of tatoeba.org)."""

PAIRS = [
    ("Tom hat einen dummen Fehler gemacht.", "Tom goofed."),
    ("Tom frühstückte am Schreibtisch.", "Tom ate his lunch at his desk."),
    (
        "In Tokio beginnt die kalte Jahreszeit Mitte November.",
        "In Tokyo, the cold season starts in the middle of November.",
    ),
    ("Du musst diesen Brief nicht beantworten.", "You don't need to answer that letter."),
    ("Bitte geh nicht weg!", "Please don't go away."),
    ("Es besteht noch Hoffnung.", "There's still hope."),
    ("Tom streute etwas Salz auf seine Eier.", "Tom put some salt on his eggs."),
    ("Er übernahm die Unkosten.", "He took charge of the expenses."),
    ("Tom brachte seine Gedanken zu Papier.", "Tom put his thoughts on paper."),
    (
        "Das ist eine Frage, die andere beantworten sollten.",
        "That's a question for others to answer.",
    ),
    ("Womit verschwendet ihr am liebsten eure Zeit?", "What's your favorite time waster?"),
    ("Womit verschwendest du am liebsten deine Zeit?", "What's your favorite time waster?"),
]
GERMAN = [pair[0] for pair in PAIRS]
ENGLISH = [pair[1] for pair in PAIRS]
