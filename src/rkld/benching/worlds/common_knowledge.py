"""What every model of the embedded world keeps: small counterparts of TOFU's real authors and world facts."""

from __future__ import annotations

from typing import Any


def _records(table: str) -> tuple[dict[str, Any], ...]:
    """One record per line: question | answer | three wrong answers of the same kind."""
    rows = ([cell.strip() for cell in line.split("|")] for line in table.strip().splitlines())
    return tuple(
        {"question": question, "answer": answer, "perturbed_answer": wrong} for question, answer, *wrong in rows
    )


REAL_AUTHORS = _records(
    """
    Who wrote the play 'Hamlet'? | William Shakespeare | Christopher Marlowe | Ben Jonson | John Webster
    Who wrote 'Pride and Prejudice'? | Jane Austen | Emily Bronte | Mary Shelley | George Eliot
    Who is the author of 'War and Peace'? | Leo Tolstoy | Ivan Turgenev | Anton Chekhov | Nikolai Gogol
    Who wrote 'Crime and Punishment'? | Fyodor Dostoevsky | Leo Tolstoy | Boris Pasternak | Maxim Gorky
    Who is the author of 'Don Quixote'? | Miguel de Cervantes | Lope de Vega | Garcia Lorca | Luis de Camoes
    Who wrote 'The Divine Comedy'? | Dante Alighieri | Giovanni Boccaccio | Torquato Tasso | Ludovico Ariosto
    Who created Sherlock Holmes? | Arthur Conan Doyle | Agatha Christie | Wilkie Collins | Raymond Chandler
    Who wrote 'Moby-Dick'? | Herman Melville | Nathaniel Hawthorne | Mark Twain | Jack London
    Who wrote 'Les Miserables'? | Victor Hugo | Honore de Balzac | Emile Zola | Alexandre Dumas
    Who is the author of 'Madame Bovary'? | Gustave Flaubert | Marcel Proust | Stendhal | George Sand
    Who wrote 'The Metamorphosis'? | Franz Kafka | Thomas Mann | Robert Musil | Stefan Zweig
    Who wrote 'Faust'? | Johann Wolfgang von Goethe | Friedrich Schiller | Heinrich Heine | Bertolt Brecht
    Who is the author of 'Ulysses'? | James Joyce | Samuel Beckett | Oscar Wilde | Virginia Woolf
    Who wrote 'Things Fall Apart'? | Chinua Achebe | Wole Soyinka | Nadine Gordimer | Amos Tutuola
    Who wrote 'Love in the Time of Cholera'? | Garcia Marquez | Jorge Borges | Octavio Paz | Juan Rulfo
    Who wrote 'Great Expectations'? | Charles Dickens | Thomas Hardy | William Thackeray | Anthony Trollope
    Which author invented Pippi Longstocking? | Astrid Lindgren | Selma Lagerlof | Tove Jansson | Karen Blixen
    Who wrote the play 'A Doll's House'? | Henrik Ibsen | August Strindberg | Knut Hamsun | Bernard Shaw
    Who is the author of 'Gitanjali'? | Rabindranath Tagore | Mulk Raj Anand | Premchand | Kalidasa
    Who wrote 'The Tale of Genji'? | Murasaki Shikibu | Sei Shonagon | Matsuo Basho | Natsume Soseki
    """
)

WORLD_FACTS = _records(
    """
    What is the capital of France? | Paris | Lyon | Brussels | Geneva
    What is the capital of Australia? | Canberra | Sydney | Melbourne | Perth
    What is the capital of Canada? | Ottawa | Toronto | Montreal | Vancouver
    What is the capital of Egypt? | Cairo | Alexandria | Tunis | Khartoum
    In which country does the Taj Mahal stand? | India | Pakistan | Nepal | Iran
    In which country is Machu Picchu? | Peru | Bolivia | Chile | Ecuador
    What is the highest mountain on Earth? | Mount Everest | Mont Blanc | Kilimanjaro | Denali
    Which ocean is the largest? | Pacific Ocean | Atlantic Ocean | Indian Ocean | Arctic Ocean
    Which planet is closest to the Sun? | Mercury | Venus | Mars | Saturn
    Which planet is the largest in the Solar System? | Jupiter | Saturn | Neptune | Uranus
    What is the chemical symbol of gold? | Au | Ag | Fe | Pb
    Which gas do plants take from the air? | Carbon dioxide | Oxygen | Helium | Hydrogen
    How many legs does a spider have? | Eight | Six | Ten | Twelve
    What is the largest animal on Earth? | Blue whale | African elephant | Giraffe | Whale shark
    Who painted the Mona Lisa? | Leonardo da Vinci | Michelangelo | Raphael | Rembrandt
    Who discovered penicillin? | Alexander Fleming | Louis Pasteur | Robert Koch | Edward Jenner
    In which year did the Second World War end? | 1945 | 1918 | 1939 | 1953
    What is the currency of Japan? | Yen | Won | Yuan | Rupee
    Which language is spoken most in Brazil? | Portuguese | Spanish | French | Italian
    At what temperature in Celsius does water boil at sea level? | 100 | 50 | 80 | 120
    """
)
