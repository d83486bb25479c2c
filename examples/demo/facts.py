"""Countries and simple facts, and the many ways to ask for them.

Called by examples/demo_corpus.py. Every question has one answer, so that exact match means something; what is held out
is the pair (fact, phrasing): the model must have the fact from other phrasings.
"""

# ruff: noqa: E501 - a table has long lines
from random import Random

from demo.kinds import Exchange, Plain, is_held_out
from demo.people import words

# name | capital | continent | language | currency
_TABLE = """
Afghanistan|Kabul|Asia|Pashto|afghani
Albania|Tirana|Europe|Albanian|lek
Algeria|Algiers|Africa|Arabic|dinar
Andorra|Andorra la Vella|Europe|Catalan|euro
Angola|Luanda|Africa|Portuguese|kwanza
Argentina|Buenos Aires|South America|Spanish|peso
Armenia|Yerevan|Asia|Armenian|dram
Australia|Canberra|Oceania|English|Australian dollar
Austria|Vienna|Europe|German|euro
Azerbaijan|Baku|Asia|Azerbaijani|manat
the Bahamas|Nassau|North America|English|Bahamian dollar
Bahrain|Manama|Asia|Arabic|dinar
Bangladesh|Dhaka|Asia|Bengali|taka
Barbados|Bridgetown|North America|English|Barbados dollar
Belarus|Minsk|Europe|Belarusian|ruble
Belgium|Brussels|Europe|Dutch|euro
Belize|Belmopan|North America|English|Belize dollar
Benin|Porto-Novo|Africa|French|CFA franc
Bhutan|Thimphu|Asia|Dzongkha|ngultrum
Bosnia and Herzegovina|Sarajevo|Europe|Bosnian|mark
Botswana|Gaborone|Africa|English|pula
Brazil|Brasilia|South America|Portuguese|real
Brunei|Bandar Seri Begawan|Asia|Malay|Brunei dollar
Bulgaria|Sofia|Europe|Bulgarian|euro
Burkina Faso|Ouagadougou|Africa|French|CFA franc
Burundi|Gitega|Africa|Kirundi|Burundi franc
Cambodia|Phnom Penh|Asia|Khmer|riel
Cameroon|Yaounde|Africa|French|CFA franc
Canada|Ottawa|North America|English|Canadian dollar
Cape Verde|Praia|Africa|Portuguese|escudo
Chad|N'Djamena|Africa|French|CFA franc
Chile|Santiago|South America|Spanish|peso
China|Beijing|Asia|Chinese|yuan
Colombia|Bogota|South America|Spanish|peso
Costa Rica|San Jose|North America|Spanish|colon
Croatia|Zagreb|Europe|Croatian|euro
Cuba|Havana|North America|Spanish|peso
Cyprus|Nicosia|Europe|Greek|euro
the Czech Republic|Prague|Europe|Czech|koruna
Denmark|Copenhagen|Europe|Danish|krone
Djibouti|Djibouti City|Africa|French|Djibouti franc
the Dominican Republic|Santo Domingo|North America|Spanish|peso
Ecuador|Quito|South America|Spanish|US dollar
Egypt|Cairo|Africa|Arabic|Egyptian pound
El Salvador|San Salvador|North America|Spanish|US dollar
Eritrea|Asmara|Africa|Tigrinya|nakfa
Estonia|Tallinn|Europe|Estonian|euro
Eswatini|Mbabane|Africa|Swazi|lilangeni
Ethiopia|Addis Ababa|Africa|Amharic|birr
Fiji|Suva|Oceania|English|Fiji dollar
Finland|Helsinki|Europe|Finnish|euro
France|Paris|Europe|French|euro
Gabon|Libreville|Africa|French|CFA franc
the Gambia|Banjul|Africa|English|dalasi
Georgia|Tbilisi|Asia|Georgian|lari
Germany|Berlin|Europe|German|euro
Ghana|Accra|Africa|English|cedi
Greece|Athens|Europe|Greek|euro
Grenada|Saint George's|North America|English|Caribbean dollar
Guatemala|Guatemala City|North America|Spanish|quetzal
Guinea|Conakry|Africa|French|Guinea franc
Guyana|Georgetown|South America|English|Guyana dollar
Haiti|Port-au-Prince|North America|French|gourde
Honduras|Tegucigalpa|North America|Spanish|lempira
Hungary|Budapest|Europe|Hungarian|forint
Iceland|Reykjavik|Europe|Icelandic|krona
India|New Delhi|Asia|Hindi|rupee
Indonesia|Jakarta|Asia|Indonesian|rupiah
Iran|Tehran|Asia|Persian|rial
Iraq|Baghdad|Asia|Arabic|dinar
Ireland|Dublin|Europe|English|euro
Italy|Rome|Europe|Italian|euro
Ivory Coast|Yamoussoukro|Africa|French|CFA franc
Jamaica|Kingston|North America|English|Jamaican dollar
Japan|Tokyo|Asia|Japanese|yen
Jordan|Amman|Asia|Arabic|dinar
Kazakhstan|Astana|Asia|Kazakh|tenge
Kenya|Nairobi|Africa|Swahili|shilling
Kuwait|Kuwait City|Asia|Arabic|dinar
Kyrgyzstan|Bishkek|Asia|Kyrgyz|som
Laos|Vientiane|Asia|Lao|kip
Latvia|Riga|Europe|Latvian|euro
Lebanon|Beirut|Asia|Arabic|Lebanese pound
Lesotho|Maseru|Africa|Sesotho|loti
Liberia|Monrovia|Africa|English|Liberian dollar
Libya|Tripoli|Africa|Arabic|dinar
Liechtenstein|Vaduz|Europe|German|Swiss franc
Lithuania|Vilnius|Europe|Lithuanian|euro
Luxembourg|Luxembourg City|Europe|Luxembourgish|euro
Madagascar|Antananarivo|Africa|Malagasy|ariary
Malawi|Lilongwe|Africa|English|kwacha
Malaysia|Kuala Lumpur|Asia|Malay|ringgit
the Maldives|Male|Asia|Dhivehi|rufiyaa
Mali|Bamako|Africa|French|CFA franc
Malta|Valletta|Europe|Maltese|euro
Mauritania|Nouakchott|Africa|Arabic|ouguiya
Mauritius|Port Louis|Africa|English|Mauritian rupee
Mexico|Mexico City|North America|Spanish|peso
Moldova|Chisinau|Europe|Romanian|leu
Monaco|Monaco|Europe|French|euro
Mongolia|Ulaanbaatar|Asia|Mongolian|tugrik
Montenegro|Podgorica|Europe|Montenegrin|euro
Morocco|Rabat|Africa|Arabic|dirham
Mozambique|Maputo|Africa|Portuguese|metical
Myanmar|Naypyidaw|Asia|Burmese|kyat
Namibia|Windhoek|Africa|English|Namibian dollar
Nepal|Kathmandu|Asia|Nepali|Nepalese rupee
the Netherlands|Amsterdam|Europe|Dutch|euro
New Zealand|Wellington|Oceania|English|New Zealand dollar
Nicaragua|Managua|North America|Spanish|cordoba
Niger|Niamey|Africa|French|CFA franc
Nigeria|Abuja|Africa|English|naira
North Korea|Pyongyang|Asia|Korean|won
North Macedonia|Skopje|Europe|Macedonian|denar
Norway|Oslo|Europe|Norwegian|krone
Oman|Muscat|Asia|Arabic|rial
Pakistan|Islamabad|Asia|Urdu|rupee
Panama|Panama City|North America|Spanish|balboa
Papua New Guinea|Port Moresby|Oceania|English|kina
Paraguay|Asuncion|South America|Spanish|guarani
Peru|Lima|South America|Spanish|sol
the Philippines|Manila|Asia|Filipino|peso
Poland|Warsaw|Europe|Polish|zloty
Portugal|Lisbon|Europe|Portuguese|euro
Qatar|Doha|Asia|Arabic|riyal
Romania|Bucharest|Europe|Romanian|leu
Russia|Moscow|Europe|Russian|ruble
Rwanda|Kigali|Africa|Kinyarwanda|Rwandan franc
Samoa|Apia|Oceania|Samoan|tala
San Marino|San Marino|Europe|Italian|euro
Saudi Arabia|Riyadh|Asia|Arabic|riyal
Senegal|Dakar|Africa|French|CFA franc
Serbia|Belgrade|Europe|Serbian|dinar
the Seychelles|Victoria|Africa|English|Seychelles rupee
Sierra Leone|Freetown|Africa|English|leone
Singapore|Singapore|Asia|English|Singapore dollar
Slovakia|Bratislava|Europe|Slovak|euro
Slovenia|Ljubljana|Europe|Slovene|euro
Somalia|Mogadishu|Africa|Somali|Somali shilling
South Africa|Pretoria|Africa|English|rand
South Korea|Seoul|Asia|Korean|won
South Sudan|Juba|Africa|English|South Sudanese pound
Spain|Madrid|Europe|Spanish|euro
Sri Lanka|Colombo|Asia|Sinhala|Sri Lankan rupee
Sudan|Khartoum|Africa|Arabic|Sudanese pound
Suriname|Paramaribo|South America|Dutch|Surinamese dollar
Sweden|Stockholm|Europe|Swedish|krona
Switzerland|Bern|Europe|German|Swiss franc
Syria|Damascus|Asia|Arabic|Syrian pound
Taiwan|Taipei|Asia|Chinese|Taiwan dollar
Tajikistan|Dushanbe|Asia|Tajik|somoni
Tanzania|Dodoma|Africa|Swahili|Tanzanian shilling
Thailand|Bangkok|Asia|Thai|baht
Togo|Lome|Africa|French|CFA franc
Tonga|Nuku'alofa|Oceania|Tongan|pa'anga
Trinidad and Tobago|Port of Spain|North America|English|Trinidad dollar
Tunisia|Tunis|Africa|Arabic|dinar
Turkey|Ankara|Asia|Turkish|lira
Turkmenistan|Ashgabat|Asia|Turkmen|manat
Uganda|Kampala|Africa|English|Ugandan shilling
Ukraine|Kyiv|Europe|Ukrainian|hryvnia
the United Arab Emirates|Abu Dhabi|Asia|Arabic|dirham
the United Kingdom|London|Europe|English|pound
the United States|Washington, D.C.|North America|English|US dollar
Uruguay|Montevideo|South America|Spanish|peso
Uzbekistan|Tashkent|Asia|Uzbek|som
Vanuatu|Port Vila|Oceania|Bislama|vatu
Venezuela|Caracas|South America|Spanish|bolivar
Vietnam|Hanoi|Asia|Vietnamese|dong
Yemen|Sanaa|Asia|Arabic|rial
Zambia|Lusaka|Africa|English|Zambian kwacha
Zimbabwe|Harare|Africa|English|Zimbabwe dollar
"""
COUNTRIES = [tuple(line.split("|")) for line in _TABLE.split("\n") if line]
CAPITALS = {country: capital for country, capital, *_ in COUNTRIES}
_UNIQUE_CAPITALS = [row for row in COUNTRIES if row[1] not in ("San Marino", "Monaco", "Singapore")]

# subject of the sentence | rest of the sentence, ending in the answer | the answer alone | questions, separated by /
_FACTS = """
Water|boils at 100 degrees Celsius|100 degrees Celsius|At what temperature does water boil/When does water boil
Water|freezes at 0 degrees Celsius|0 degrees Celsius|At what temperature does water freeze/When does water freeze
The largest planet|is Jupiter|Jupiter|What is the largest planet/Which planet is the largest/What is the biggest planet
The smallest planet|is Mercury|Mercury|What is the smallest planet/Which planet is the smallest
The planet closest to the sun|is Mercury|Mercury|Which planet is closest to the sun/What planet is nearest to the sun
The red planet|is Mars|Mars|Which planet is called the red planet/What is the red planet
The planet with the famous rings|is Saturn|Saturn|Which planet has famous rings/What planet has rings
The hottest planet|is Venus|Venus|What is the hottest planet/Which planet is the hottest
The planet farthest from the sun|is Neptune|Neptune|Which planet is farthest from the sun
The third planet from the sun|is Earth|Earth|What is the third planet from the sun/Which planet do we live on
The star closest to Earth|is the sun|the sun|Which star is closest to Earth/What is the nearest star
The Earth|goes around the sun|the sun|What does the Earth go around/What does the Earth orbit
The moon|goes around the Earth|the Earth|What does the moon go around/What does the moon orbit
The largest ocean|is the Pacific Ocean|the Pacific Ocean|What is the largest ocean/Which ocean is the biggest
The smallest ocean|is the Arctic Ocean|the Arctic Ocean|What is the smallest ocean/Which ocean is the smallest
The highest mountain|is Mount Everest|Mount Everest|What is the highest mountain/Which mountain is the tallest
The longest river|is the Nile|the Nile|What is the longest river/Which river is the longest
The largest desert of sand|is the Sahara|the Sahara|What is the largest sand desert/Which sand desert is the biggest
The largest continent|is Asia|Asia|What is the largest continent/Which continent is the biggest
The smallest continent|is Australia|Australia|What is the smallest continent/Which continent is the smallest
The coldest continent|is Antarctica|Antarctica|What is the coldest continent/Which continent is the coldest
The largest country|is Russia|Russia|What is the largest country/Which country is the biggest
The smallest country|is Vatican City|Vatican City|What is the smallest country/Which country is the smallest
The largest island|is Greenland|Greenland|What is the largest island/Which island is the biggest
The largest animal|is the blue whale|the blue whale|What is the largest animal/Which animal is the biggest
The tallest animal|is the giraffe|the giraffe|What is the tallest animal/Which animal is the tallest
The fastest land animal|is the cheetah|the cheetah|What is the fastest land animal/Which animal runs the fastest
The largest land animal|is the elephant|the elephant|What is the largest land animal/Which land animal is the biggest
The largest bird|is the ostrich|the ostrich|What is the largest bird/Which bird is the biggest
The slowest animal|is the sloth|the sloth|What is the slowest animal/Which animal is the slowest
The king of the animals|is the lion|the lion|Which animal is the king of the animals/Who is the king of the animals
The largest cat|is the tiger|the tiger|What is the largest cat/Which cat is the biggest
A spider|has eight legs|eight|How many legs does a spider have
An insect|has six legs|six|How many legs does an insect have
A dog|has four legs|four|How many legs does a dog have
A bird|has two legs|two|How many legs does a bird have
A snake|has no legs|none|How many legs does a snake have
An octopus|has eight arms|eight|How many arms does an octopus have
A starfish|has five arms|five|How many arms does a starfish have
A human hand|has five fingers|five|How many fingers does a human hand have/How many fingers are on a hand
An adult human|has 206 bones|206|How many bones does an adult human have/How many bones are in the human body
An adult human|has 32 teeth|32|How many teeth does an adult human have
A butterfly|has four wings|four|How many wings does a butterfly have
A triangle|has three sides|three|How many sides does a triangle have
A square|has four sides|four|How many sides does a square have
A pentagon|has five sides|five|How many sides does a pentagon have
A hexagon|has six sides|six|How many sides does a hexagon have
An octagon|has eight sides|eight|How many sides does an octagon have
A cube|has six faces|six|How many faces does a cube have
A week|has seven days|seven|How many days does a week have/How many days are in a week
A year|has twelve months|twelve|How many months does a year have/How many months are in a year
A year|has 365 days|365|How many days does a year have/How many days are in a year
A leap year|has 366 days|366|How many days does a leap year have/How many days are in a leap year
A year|has four seasons|four|How many seasons does a year have/How many seasons are there
A year|has 52 weeks|52|How many weeks does a year have/How many weeks are in a year
A day|has 24 hours|24|How many hours does a day have/How many hours are in a day
An hour|has 60 minutes|60|How many minutes does an hour have/How many minutes are in an hour
A minute|has 60 seconds|60|How many seconds does a minute have/How many seconds are in a minute
A century|has 100 years|100|How many years does a century have/How many years are in a century
A decade|has ten years|ten|How many years does a decade have/How many years are in a decade
A kilometer|has 1000 meters|1000|How many meters does a kilometer have/How many meters are in a kilometer
A meter|has 100 centimeters|100|How many centimeters does a meter have/How many centimeters are in a meter
A kilogram|has 1000 grams|1000|How many grams does a kilogram have/How many grams are in a kilogram
A dozen|is twelve|twelve|How many is a dozen/How many eggs are in a dozen
The alphabet|has 26 letters|26|How many letters does the alphabet have/How many letters are in the English alphabet
A byte|has eight bits|eight|How many bits does a byte have/How many bits are in a byte
A piano|has 88 keys|88|How many keys does a piano have
A guitar|has six strings|six|How many strings does a guitar have
A violin|has four strings|four|How many strings does a violin have
A chess board|has 64 squares|64|How many squares does a chess board have
A football team|has eleven players|eleven|How many players does a football team have
A rainbow|has seven colors|seven|How many colors does a rainbow have/How many colors are in a rainbow
Our solar system|has eight planets|eight|How many planets does our solar system have/How many planets are there
The Earth|has one moon|one|How many moons does the Earth have
The world|has seven continents|seven|How many continents does the world have/How many continents are there
The world|has five oceans|five|How many oceans does the world have/How many oceans are there
The sky|is blue|blue|What color is the sky/Which color does the sky have
Grass|is green|green|What color is grass/Which color does grass have
Snow|is white|white|What color is snow/Which color does snow have
Blood|is red|red|What color is blood/Which color does blood have
Coal|is black|black|What color is coal/Which color does coal have
A banana|is yellow|yellow|What color is a banana/Which color does a banana have
A tomato|is red|red|What color is a tomato/Which color does a tomato have
A carrot|is orange|orange|What color is a carrot/Which color does a carrot have
The sun|is yellow|yellow|What color is the sun/Which color does the sun have
Milk|is white|white|What color is milk/Which color does milk have
A lemon|is yellow|yellow|What color is a lemon/Which color does a lemon have
Chocolate|is brown|brown|What color is chocolate/Which color does chocolate have
An elephant|is gray|gray|What color is an elephant/Which color does an elephant have
A flamingo|is pink|pink|What color is a flamingo/Which color does a flamingo have
Blue and yellow|make green|green|What do blue and yellow make/Which color do you get from blue and yellow
Red and yellow|make orange|orange|What do red and yellow make/Which color do you get from red and yellow
Red and blue|make purple|purple|What do red and blue make/Which color do you get from red and blue
Black and white|make gray|gray|What do black and white make/Which color do you get from black and white
Red and white|make pink|pink|What do red and white make/Which color do you get from red and white
A cat|says meow|meow|What does a cat say/What sound does a cat make
A dog|says woof|woof|What does a dog say/What sound does a dog make
A cow|says moo|moo|What does a cow say/What sound does a cow make
A duck|says quack|quack|What does a duck say/What sound does a duck make
A sheep|says baa|baa|What does a sheep say/What sound does a sheep make
A pig|says oink|oink|What does a pig say/What sound does a pig make
A frog|says ribbit|ribbit|What does a frog say/What sound does a frog make
A lion|says roar|roar|What does a lion say/What sound does a lion make
A young cat|is a kitten|a kitten|What is a young cat called/What do you call a baby cat
A young dog|is a puppy|a puppy|What is a young dog called/What do you call a baby dog
A young cow|is a calf|a calf|What is a young cow called/What do you call a baby cow
A young horse|is a foal|a foal|What is a young horse called/What do you call a baby horse
A young sheep|is a lamb|a lamb|What is a young sheep called/What do you call a baby sheep
A young chicken|is a chick|a chick|What is a young chicken called/What do you call a baby chicken
A young duck|is a duckling|a duckling|What is a young duck called/What do you call a baby duck
A young bear|is a cub|a cub|What is a young bear called/What do you call a baby bear
A young goat|is a kid|a kid|What is a young goat called/What do you call a baby goat
A young frog|is a tadpole|a tadpole|What is a young frog called/What do you call a baby frog
Bees|make honey|honey|What do bees make/What do bees produce
Cows|give milk|milk|What do cows give us
Hens|lay eggs|eggs|What do hens lay
Sheep|give wool|wool|What do sheep give us
Bread|is made from flour|flour|What is bread made from/What is bread made of
Cheese|is made from milk|milk|What is cheese made from/What is cheese made of
Wine|is made from grapes|grapes|What is wine made from/What is wine made of
Paper|is made from wood|wood|What is paper made from/What is paper made of
Glass|is made from sand|sand|What is glass made from/What is glass made of
Chocolate|is made from cocoa|cocoa|What is chocolate made from/What is chocolate made of
Ice|is frozen water|frozen water|What is ice
Fish|live in water|water|Where do fish live
Penguins|live in Antarctica|Antarctica|Where do penguins live
Polar bears|live in the Arctic|the Arctic|Where do polar bears live
Kangaroos|live in Australia|Australia|Where do kangaroos live
Pandas|live in China|China|Where do pandas live
Camels|live in the desert|the desert|Where do camels live
Pandas|eat bamboo|bamboo|What do pandas eat
Rabbits|eat carrots|carrots|What do rabbits eat
Cows|eat grass|grass|What do cows eat
Monkeys|eat bananas|bananas|What do monkeys eat
The Eiffel Tower|is in Paris|Paris|Where is the Eiffel Tower/In which city is the Eiffel Tower
The Colosseum|is in Rome|Rome|Where is the Colosseum/In which city is the Colosseum
Big Ben|is in London|London|Where is Big Ben/In which city is Big Ben
The Statue of Liberty|is in New York|New York|Where is the Statue of Liberty/In which city is the Statue of Liberty
The Great Wall|is in China|China|Where is the Great Wall/In which country is the Great Wall
The Taj Mahal|is in India|India|Where is the Taj Mahal/In which country is the Taj Mahal
The Great Pyramid|is in Egypt|Egypt|Where is the Great Pyramid/In which country is the Great Pyramid
Machu Picchu|is in Peru|Peru|Where is Machu Picchu/In which country is Machu Picchu
The Acropolis|is in Athens|Athens|Where is the Acropolis/In which city is the Acropolis
The Kremlin|is in Moscow|Moscow|Where is the Kremlin/In which city is the Kremlin
Mount Fuji|is in Japan|Japan|Where is Mount Fuji/In which country is Mount Fuji
The Grand Canyon|is in Arizona|Arizona|Where is the Grand Canyon/In which state is the Grand Canyon
Romeo and Juliet|was written by William Shakespeare|William Shakespeare|Who wrote Romeo and Juliet/Who is the author of Romeo and Juliet
Hamlet|was written by William Shakespeare|William Shakespeare|Who wrote Hamlet/Who is the author of Hamlet
Don Quixote|was written by Miguel de Cervantes|Miguel de Cervantes|Who wrote Don Quixote/Who is the author of Don Quixote
War and Peace|was written by Leo Tolstoy|Leo Tolstoy|Who wrote War and Peace/Who is the author of War and Peace
Oliver Twist|was written by Charles Dickens|Charles Dickens|Who wrote Oliver Twist/Who is the author of Oliver Twist
The Odyssey|was written by Homer|Homer|Who wrote the Odyssey/Who is the author of the Odyssey
Faust|was written by Goethe|Goethe|Who wrote Faust/Who is the author of Faust
The Mona Lisa|was painted by Leonardo da Vinci|Leonardo da Vinci|Who painted the Mona Lisa
The Starry Night|was painted by Vincent van Gogh|Vincent van Gogh|Who painted the Starry Night
Guernica|was painted by Pablo Picasso|Pablo Picasso|Who painted Guernica
The telephone|was invented by Alexander Graham Bell|Alexander Graham Bell|Who invented the telephone
The light bulb|was invented by Thomas Edison|Thomas Edison|Who invented the light bulb
The printing press|was invented by Johannes Gutenberg|Johannes Gutenberg|Who invented the printing press
The airplane|was invented by the Wright brothers|the Wright brothers|Who invented the airplane
Dynamite|was invented by Alfred Nobel|Alfred Nobel|Who invented dynamite
The theory of relativity|comes from Albert Einstein|Albert Einstein|Who made the theory of relativity/Who came up with relativity
The law of gravity|comes from Isaac Newton|Isaac Newton|Who found the law of gravity/Who discovered gravity
Radium|was discovered by Marie Curie|Marie Curie|Who discovered radium
Penicillin|was discovered by Alexander Fleming|Alexander Fleming|Who discovered penicillin
Evolution|was explained by Charles Darwin|Charles Darwin|Who explained evolution
The first person on the moon|was Neil Armstrong|Neil Armstrong|Who was the first person on the moon/Who walked on the moon first
The first person in space|was Yuri Gagarin|Yuri Gagarin|Who was the first person in space
The first president of the United States|was George Washington|George Washington|Who was the first president of the United States
The ninth symphony|was composed by Beethoven|Beethoven|Who composed the ninth symphony
The Magic Flute|was composed by Mozart|Mozart|Who composed the Magic Flute
The formula of water|is H2O|H2O|What is the formula of water/What is the chemical formula of water
The symbol of gold|is Au|Au|What is the symbol of gold/What is the chemical symbol of gold
The symbol of silver|is Ag|Ag|What is the symbol of silver/What is the chemical symbol of silver
The symbol of iron|is Fe|Fe|What is the symbol of iron/What is the chemical symbol of iron
The symbol of oxygen|is O|O|What is the symbol of oxygen/What is the chemical symbol of oxygen
The symbol of hydrogen|is H|H|What is the symbol of hydrogen/What is the chemical symbol of hydrogen
The symbol of carbon|is C|C|What is the symbol of carbon/What is the chemical symbol of carbon
The hardest natural material|is diamond|diamond|What is the hardest natural material/Which natural material is the hardest
The lightest element|is hydrogen|hydrogen|What is the lightest element/Which element is the lightest
The gas that plants need|is carbon dioxide|carbon dioxide|Which gas do plants need
The gas that we breathe|is oxygen|oxygen|Which gas do we breathe/What gas do people breathe
The speed of light|is 300000 kilometers per second|300000 kilometers per second|What is the speed of light/How fast is light
The first month|is January|January|What is the first month of the year/Which month is the first
The last month|is December|December|What is the last month of the year/Which month is the last
The shortest month|is February|February|What is the shortest month/Which month is the shortest
The first letter of the alphabet|is A|A|What is the first letter of the alphabet
The last letter of the alphabet|is Z|Z|What is the last letter of the alphabet
The opposite of hot|is cold|cold|What is the opposite of hot
The opposite of big|is small|small|What is the opposite of big
The opposite of up|is down|down|What is the opposite of up
The opposite of left|is right|right|What is the opposite of left
The opposite of day|is night|night|What is the opposite of day
The opposite of happy|is sad|sad|What is the opposite of happy
The opposite of fast|is slow|slow|What is the opposite of fast
The opposite of old|is young|young|What is the opposite of old
The opposite of open|is closed|closed|What is the opposite of open
The opposite of full|is empty|empty|What is the opposite of full
The opposite of light|is dark|dark|What is the opposite of light
The opposite of easy|is difficult|difficult|What is the opposite of easy
The opposite of early|is late|late|What is the opposite of early
The opposite of rich|is poor|poor|What is the opposite of rich
The opposite of wet|is dry|dry|What is the opposite of wet
The opposite of strong|is weak|weak|What is the opposite of strong
"""
FACTS = [tuple(line.split("|")) for line in _FACTS.split("\n") if line]

# relation → (statement, questions); {c} country, {v} value, {C} country with a capital letter
_RELATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "capital": (
        "The capital of {c} is {v}.",
        (
            "What is the capital of {c}",
            "What's the capital of {c}",
            "Which city is the capital of {c}",
            "Name the capital of {c}",
            "Tell me the capital of {c}",
            "What is the capital city of {c}",
            "{C}'s capital",
            "Do you know the capital of {c}",
            "Capital of {c}",
            "Can you tell me the capital of {c}",
            "I forgot the capital of {c}. What is it",
            "Please tell me what the capital of {c} is",
        ),
    ),
    "continent": (
        "{C} is in {v}.",
        (
            "On which continent is {c}",
            "Which continent is {c} in",
            "What continent is {c} on",
            "Where is {c}",
            "Where in the world is {c}",
            "Tell me the continent of {c}",
            "In which part of the world is {c}",
        ),
    ),
    "language": (
        "People in {c} speak {v}.",
        (
            "What language do people speak in {c}",
            "Which language is spoken in {c}",
            "What do they speak in {c}",
            "What is the language of {c}",
            "Tell me the language of {c}",
            "Which language do people in {c} speak",
        ),
    ),
    "currency": (
        "The currency of {c} is the {v}.",
        (
            "What is the currency of {c}",
            "Which currency does {c} use",
            "What money do they use in {c}",
            "How do people pay in {c}",
            "Tell me the currency of {c}",
            "What's the currency of {c}",
        ),
    ),
}
_COLUMN = {"capital": 1, "continent": 2, "language": 3, "currency": 4}
_ASKED = ("capital",) * 5 + ("continent", "language", "currency")  # capitals are what everybody asks a model for
_OF_CAPITAL = words("""
Which country has the capital {v} | {v} is the capital of which country | What country is {v} the capital of |
Of which country is {v} the capital | {v} is the capital of what
""")
_POLITE = (*[""] * 5, "Hi! ", "Hello. ", "Please: ", "Quick question: ", "Tell me: ", "Hey, ", "One question. ")


def upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _ask(rng: Random, question: str) -> str:
    """Question as people type it: with or without question mark, capital letter, politeness."""
    question = rng.choice(_POLITE) + question + ("?" if rng.random() < 0.85 else "")
    if rng.random() < 0.12:
        question = question[0].lower() + question[1:]
    return question


def country_question(rng: Random) -> Exchange:
    if rng.random() < 0.1:
        country, capital, *_ = rng.choice(_UNIQUE_CAPITALS)
        form = rng.randrange(len(_OF_CAPITAL))
        key = f"of-capital|{country}|{form}"
        return Exchange.of(
            key,
            _ask(rng, _OF_CAPITAL[form].format(v=capital)),
            f"{capital} is the capital of {country}.",
            short=upper(country),
        )
    row = rng.choice(COUNTRIES)
    relation = rng.choice(_ASKED)
    statement, questions = _RELATIONS[relation]
    form, value = rng.randrange(len(questions)), row[_COLUMN[relation]]
    question = questions[form].format(c=row[0], C=upper(row[0]))
    answer = statement.format(c=row[0], C=upper(row[0]), v=value)
    return Exchange.of(f"{relation}|{row[0]}|{form}", _ask(rng, question), answer, short=upper(value))


def fact_question(rng: Random) -> Exchange:
    subject, rest, short, questions = rng.choice(FACTS)
    forms = questions.split("/")
    forms += ["Tell me: " + f[0].lower() + f[1:] for f in forms] + ["Do you know this? " + f for f in forms]
    form = rng.randrange(len(forms))
    key = "" if form == 0 else f"fact|{subject} {rest}|{form}"  # the first phrasing is always in training
    return Exchange.of(key, _ask(rng, forms[form]), f"{subject} {rest}.", short=upper(short))


def statement(rng: Random) -> str:
    if rng.random() < 0.3:
        subject, rest, *_ = rng.choice(FACTS)
        return f"{subject} {rest}."
    row = rng.choice(COUNTRIES)
    relation = rng.choice(_ASKED)
    return _RELATIONS[relation][0].format(c=row[0], C=upper(row[0]), v=row[_COLUMN[relation]])


def facts_text(rng: Random) -> Plain:
    """Statements one after another, or questions with answers, or everything about one country."""
    kind = rng.random()
    if kind < 0.5:
        joined = rng.choice((" ", "\n"))
        text = joined.join(statement(rng) for _ in range(rng.randint(1, 5)))
    elif kind < 0.75:
        lines = []
        for _ in range(rng.randint(1, 4)):
            make = country_question if rng.random() < 0.6 else fact_question
            while is_held_out((asked := make(rng)).key):
                pass
            question, answer = asked.messages[0]["content"], asked.messages[1]["content"]
            lines.append(f"Question: {question}\nAnswer: {answer}" if kind < 0.62 else f"Q: {question}\nA: {answer}")
        text = "\n".join(lines)
    else:
        row = rng.choice(COUNTRIES)
        order = rng.sample(list(_RELATIONS), 4)
        text = " ".join(_RELATIONS[r][0].format(c=row[0], C=upper(row[0]), v=row[_COLUMN[r]]) for r in order)
    return Plain("", text)
