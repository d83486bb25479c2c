"""Names, places and things that stories, records and conversations share."""


def words(text: str) -> list[str]:
    """The words of a text, or what stands between its bars."""
    return [part.strip() for part in text.replace("\n", " ").split("|" if "|" in text else None)]


NAMES = words("""
Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Mia Noah Olivia Paul Rosa Sam Tina Victor Wendy
Zoe Adam Bella Carlos Diana Eric Fatima George Hannah Ivan Julia Karl Lily Maria Nina Oscar Peter Quinn Ruth
Simon Tom Uma Vera Walter Yara Alice Bruno Cora Daniel Elena Frank Gina Hugo Ines Jonas Kenji Laura Marco Nora
Omar Priya Rita Sofia Thomas Ursula Viktor Will Yuki Ahmed Bob Chloe Dora Ella Finn Greta Hana Isaac Joan Kim
Lucas Max Nadia Otto Pia Ralph Sara Theo Tara Vincent Wanda Xavier Yusuf Zara Amir Aisha Lena Martin Mary John
James Linda Susan Robert Emily Michael Sarah Laura Kevin Amy Brian Carol Ravi Mei Chen Luis Pedro Ana Jose Olga
Boris Ingrid Lars Sven Astrid
""")
LAST_NAMES = words("""
Smith Brown Miller Jones Garcia Lopez Martin Rossi Weber Schmidt Novak Kim Tanaka Sato Chen Wang Singh Patel
Khan Ali Silva Santos Costa Hansen Larsen Berg Kowalski Popov Ivanov Petrov Murphy Kelly Walker Young King
Wright Green Baker Adams Nelson Carter Mitchell Turner Parker Evans Collins Stewart Morris Cook Rogers Reed Bell
""")
CITIES = words("""
Paris | London | Berlin | Madrid | Rome | Vienna | Lisbon | Prague | Oslo | Dublin | Athens | Warsaw | Tokyo |
Seoul | Beijing | Bangkok | Cairo | Nairobi | Lima | Boston | Chicago | Toronto | Sydney | Mumbai | Delhi |
Istanbul | Moscow | Helsinki | Stockholm | Copenhagen | Budapest | Brussels | Amsterdam | Zurich | Geneva |
Milan | Munich | Hamburg | Barcelona | Porto | Krakow | New York | Los Angeles | San Francisco | Seattle |
Denver | Houston | Miami | Mexico City | Buenos Aires | Santiago | Bogota | Rio de Janeiro | Sao Paulo |
Cape Town | Lagos | Accra | Dubai | Singapore | Jakarta | Manila | Hanoi | Shanghai | Osaka | Kyoto | Melbourne
| Auckland | Vancouver | Montreal | Edinburgh | Manchester | Naples | Lyon | Marseille | Valencia | Reykjavik |
Tallinn | Riga | Vilnius | Kyiv | Bucharest | Sofia | Belgrade | Zagreb
""")
JOBS = words("""
teacher doctor nurse baker farmer painter singer cook driver pilot writer lawyer engineer gardener carpenter
dentist plumber musician librarian scientist student waiter tailor photographer actor sailor
""")
HOBBIES = words("""
reading swimming cooking dancing singing painting running chess football tennis hiking fishing gardening cycling
skating sailing drawing music photography knitting
""")
COLORS = words("red blue green yellow orange purple pink black white gray brown")
FOODS = words("""
bread cheese soup rice pasta pizza salad apples pears bananas grapes cake cookies chocolate honey eggs potatoes
carrots tomatoes fish beans pancakes noodles strawberries
""")
ANIMALS = words("""
cat dog rabbit fox bear mouse bird owl horse cow pig sheep goat duck hen frog lion tiger elephant monkey
squirrel turtle hedgehog wolf deer penguin whale dolphin bee butterfly snail donkey
""")


def a(noun: str) -> str:
    """The noun with its article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
