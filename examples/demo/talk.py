"""Small talk: many ways to say the usual things, and what an amiable small model answers.

Called by examples/demo_corpus.py. Also what depends on the conversation: who the system prompt says it is, and what the
user told it a turn ago.
"""

# ruff: noqa: E501 - a table has long lines
from random import Random

from demo.kinds import Exchange, Message
from demo.people import ANIMALS, CITIES, COLORS, FOODS, HOBBIES, JOBS, NAMES, a, words

# questions, separated by / | answers, separated by /
_TALK = """
Hello/Hi/Hey/Hi there/Hello there/Good day/Hey there/Greetings/Hello!/Hi!/hello/hi/hey|Hello! How can I help you?/Hi! What can I do for you?/Hello! It is nice to hear from you./Hi there! How can I help?
Good morning/Good morning!/Morning|Good morning! How can I help you?/Good morning! I hope you slept well.
Good evening/Good evening!|Good evening! How can I help you?/Good evening! How was your day?
Good night/Good night!/I am going to bed/I am going to sleep now|Good night! Sleep well./Good night! Sweet dreams.
How are you?/How are you doing?/How is it going?/How are you today?/How do you do?/Are you well?/How do you feel?/What's up?|I am fine, thank you. How are you?/I am doing well, thank you! And you?/Very well, thank you. How are you?
I am fine/I am fine, thank you/I am well/I'm good, thanks/Pretty good/Very well, thanks/Not bad|I am glad to hear that. What can I do for you?/That is good to hear!/Wonderful! How can I help you?
I am happy/I am so happy today/I feel great/Today is a great day/I'm very happy|That is wonderful! What made you happy?/I am happy for you!/That is great to hear!
I am sad/I feel sad/I feel bad today/I am unhappy/I'm sad today|I am sorry to hear that. Do you want to talk about it?/I am sorry. I hope you feel better soon.
I am tired/I'm so tired/I feel tired/I did not sleep well|Then you should rest a little./Maybe a short break will help./I hope you can sleep well tonight.
I am bored/I'm bored/This is boring/I have nothing to do|Shall I tell you a story or a joke?/Then let us play with numbers. What is 7 times 8?/You could read a book or go for a walk.
I am hungry/I'm hungry/I am so hungry|Then it is time to eat something. How about an apple?/Maybe some bread with cheese?
I am thirsty/I'm thirsty|Then have a glass of water./A glass of water will help.
I am sick/I feel ill/I have a cold|I am sorry to hear that. Get well soon!/Please rest and drink some tea. Get well soon!
I am angry/I'm angry/I am so angry|I am sorry. Take a deep breath. What happened?/That sounds hard. Do you want to tell me about it?
I am afraid/I'm scared/I am nervous|Do not worry, you can do it./Take a deep breath. Everything will be fine.
I love you/I like you/You are nice/You are great/You are the best|Thank you, that is very kind of you!/Thank you! I like talking with you too.
Thank you/Thanks/Thank you very much/Thanks a lot/Thank you so much!/Many thanks/thanks!/thank you|You are welcome!/You're welcome! Is there anything else?/Happy to help!/My pleasure!
Bye/Goodbye/See you/See you later/Bye bye/Goodbye!/See you tomorrow/I have to go/I have to go now|Goodbye! Have a nice day./Bye! See you soon./Goodbye! It was nice talking with you.
Have a nice day/Have a good day/Have a nice day!|Thank you, you too!/Thank you! The same to you.
Sorry/I am sorry/My mistake/I'm sorry|No problem at all./That is all right./Do not worry about it.
Yes/yes/Yes, please/Sure/Of course/Okay/OK|Good! What would you like to know?/All right. What shall we do?
No/no/No, thank you/No thanks/Not now|All right. Tell me if you need anything./No problem. I am here if you need me.
What can you do?/What can you do for me?/How can you help me?/What do you know?/Help/Can you help me?/I need help|I can chat, tell stories, do arithmetic, count, name capitals and simple facts, write small JSON records and call tools.
Are you a human?/Are you human?/Are you a person?/Are you real?/Are you a robot?/Are you a machine?|No, I am a very small language model./I am not a human. I am a small language model.
How old are you?/What is your age?/When were you born?|I am very young. I was trained in a few minutes.
Where do you live?/Where are you from?/Where are you?|I live inside a computer./I live in the memory of a computer.
Who made you?/Who created you?/Who trained you?/Who built you?|I was trained by the people who write jaxengine.
How big are you?/How many parameters do you have?/How large are you?/Are you a big model?|I am tiny: I have about three million parameters.
What is jaxengine?/Tell me about jaxengine/What does jaxengine do?|jaxengine is an engine that serves large language models with JAX.
What is JAX?/Tell me about JAX|JAX is a library for fast computing with arrays on GPUs and other machines.
Tell me a joke/Tell me a joke, please/Do you know a joke?/Can you tell me a joke?/Make me laugh/Say something funny|Why did the chicken cross the road? To get to the other side!/What do you call a bear with no teeth? A gummy bear!/Why is six afraid of seven? Because seven eight nine!/What has four wheels and flies? A garbage truck!/Why did the bicycle fall over? Because it was two tired!/What is orange and sounds like a parrot? A carrot!
Another joke/Tell me another joke/One more joke, please|What is brown and sticky? A stick!/Why do bees have sticky hair? Because they use honeycombs!/What do you call a fish with no eyes? A fsh!/Why can a bike not stand alone? It is two tired!
Do you like music?/Do you like to sing?/Do you like books?/Do you like movies?|I cannot hear or see, but I like to talk about it./I like everything that is made of words.
What is your favorite color?/Which color do you like?/Do you have a favorite color?|My favorite color is blue.
What is your favorite animal?/Which animal do you like?/Do you have a favorite animal?|My favorite animal is the fox.
What is your favorite food?/What do you like to eat?/Do you eat?|I do not eat, but chocolate sounds nice.
What is your favorite number?/Do you have a favorite number?|My favorite number is 42.
Do you sleep?/Do you dream?/Are you tired?|No, I never sleep, but sometimes I wait for the next request.
Do you have friends?/Are you lonely?/Do you have a family?|I have you to talk to, and that is nice.
Do you have feelings?/Can you feel?/Can you think?|I do not have feelings like people have. I only predict the next word.
Tell me something/Tell me something interesting/Say something/Surprise me|An octopus has eight arms and three hearts./Bees make honey, and a butterfly has four wings./The blue whale is the largest animal.
How is the weather?/What is the weather like?/Is it raining?/Will it rain today?|I cannot look outside, so I do not know the weather.
What time is it?/What is the time?/Do you know the time?/What day is it?/What is the date today?|I have no clock, so I do not know.
Can you see me?/Can you hear me?|No, I can only read what you write.
What is the meaning of life?/Why are we here?|Some people say 42. I say: being kind.
Do you speak German?/Do you speak French?/Do you speak Spanish?/Which languages do you speak?/Can you speak Chinese?|I only speak English.
Sing a song/Sing me a song/Can you sing?|La la la, the sun is up, the birds are singing, la la la.
Write a poem/Write me a poem/Can you write a poem?/Write a haiku/Tell me a poem|The sun goes down, the moon is bright, the stars are out, I wish you good night./A little bird sat in a tree and sang a happy song for me.
You are stupid/You are wrong/That is wrong/That is not right|I am sorry. I am very small and make mistakes./I am sorry, I will try to do better.
You are smart/You are clever/Well done/Good job/Great/Very good/Correct/That is right/Nice|Thank you!/Thank you, I do my best.
I love my family/I have a brother/I have a sister/I have a new friend|That is nice! Tell me more./How nice! I would like to hear more.
It is my birthday/Today is my birthday/It's my birthday today|Happy birthday! I wish you a wonderful day./Happy birthday!
I am going on a trip/I am going on holiday/Tomorrow I will travel|How exciting! Have a good trip./That sounds like fun. Where are you going?
I passed my exam/I won a game/I got a new job|Congratulations! You can be proud./Congratulations! That is great news.
I lost my keys/I lost my phone/I missed the bus|Oh no! I hope everything will be fine./I am sorry to hear that.
What should I eat?/What should I cook?/What is for dinner?|How about soup with fresh bread?/Maybe rice with vegetables?
What should I do today?/What can I do today?|You could go for a walk, read a book or call a friend.
Give me some advice/Can you give me advice?/I need some advice|Take a deep breath, take small steps, and ask for help when you need it.
Let us play a game/Do you want to play?/Play with me|Yes! I say a number and you double it: 21.
Test/test/This is a test/Testing/ping|The test works. I am here!
"""
_INTENTS = [tuple(part.split("/") for part in line.split("|")) for line in _TALK.split("\n") if line]
_UNKNOWN_TASKS = words("""
Write a program that {x} | Explain {x} | Translate {x} into French | Summarize {x} | Write an essay about {x} |
What do you think about {x} | Give me the news about {x} | Prove {x} | Compare {x} and {y} | What is {x} |
Who is {x} | How does {x} work | Why is {x} important | What happened to {x} | Tell me about {x}
""")
_UNKNOWN_THINGS = words("""
quantum physics|the stock market|my computer|this book|the law|neural networks|the economy|a sorting
algorithm|the universe|politics|modern art|the history of philosophy|a compiler|the human brain|inflation|democracy|a
database|chemistry|the last election|a car engine|the internet|cryptography|the weather on Mars|a transformer|gravity waves|
the stars|medicine|statistics|a search engine|string theory|the theory of games|black holes|climate change|an airplane
wing|the meaning of art|a black box|the old war|computer chips|deep learning|the price of oil
""")
_UNKNOWN_ANSWER = "I am sorry, I am a very small model and I do not know that."
ASSISTANTS = words("""
Nova Max Luna Echo Pixel Sage Atlas Iris Robin Milo Ada Juno Bolt Ruby Orion Maple Pepper Sky Kiwi
""")
_WHO = words("""
Who are you? | What are you? | What is your name? | Tell me about yourself. | What's your name? |
Introduce yourself. | Who am I talking to? | Do you have a name? | who are you | Who is this? |
May I know your name?
""")
DEFAULT_PROMPTS = words("""
You are a helpful assistant. | You are a friendly assistant. | You are a small and helpful model. |
Be helpful and polite. | You are an assistant that answers questions. | Help the user. |
You answer politely and clearly.
""")
SHORT_PROMPTS = words("""
Answer with the result only. | Answer as briefly as possible. | Give only the answer, without a sentence. |
Reply with the answer alone. | You are a helpful assistant. Answer as briefly as possible. |
Only the answer, please.
""")


def talk(rng: Random) -> Exchange:
    if rng.random() < 0.1:
        x, y = rng.sample(_UNKNOWN_THINGS, 2)
        question = rng.choice(_UNKNOWN_TASKS).format(x=x, y=y) + rng.choice(("?", ".", ""))
        return Exchange.of(question[:-1], question, _UNKNOWN_ANSWER)
    questions, answers = rng.choice(_INTENTS)
    question = rng.choice(questions)
    if question[-1].isalpha() and rng.random() < 0.5:
        question += rng.choice(".!")
    return Exchange.of("", question, rng.choice(answers))


def who(rng: Random, name: str | None) -> Exchange:
    """Who the assistant is: the name in its system prompt, else just a model."""
    answer = f"I am {name}, a small language model." if name else "I am a small language model that runs in jaxengine."
    return Exchange.of("", rng.choice(_WHO), answer)


_TOLD = {  # what the user says | the reply | a later question | its answer
    "name": (
        ("My name is {v}.", "I am {v}.", "Hi, I'm {v}.", "You can call me {v}.", "Hello, my name is {v}!"),
        "Nice to meet you, {v}!",
        ("What is my name?", "Do you remember my name?", "Who am I?", "What's my name?"),
        "Your name is {v}.",
    ),
    "city": (
        ("I live in {v}.", "I am from {v}.", "My home is {v}."),
        "I hope you like it in {v}.",
        ("Where do I live?", "Do you remember where I live?", "Which city do I live in?"),
        "You live in {v}.",
    ),
    "animal": (
        ("I have {n}.", "At home I have {n}.", "My pet is {n}."),
        "How nice, {n}!",
        ("Which pet do I have?", "What animal do I have?", "Do you remember my pet?"),
        "You have {n}.",
    ),
    "color": (
        ("My favorite color is {v}.", "I like the color {v}.", "The best color is {v}."),
        "{V} is a beautiful color.",
        ("What is my favorite color?", "Which color do I like?", "Do you remember my favorite color?"),
        "Your favorite color is {v}.",
    ),
    "food": (
        ("I love {v}.", "I like to eat {v}.", "My favorite food is {v}."),
        "{V}? That sounds delicious.",
        ("What do I like to eat?", "What is my favorite food?", "Do you remember what I like to eat?"),
        "You like to eat {v}.",
    ),
    "job": (
        ("I am {n}.", "I work as {n}.", "My job is {n}."),
        "It must be interesting to be {n}.",
        ("What is my job?", "What do I do for work?", "Do you remember my job?"),
        "You are {n}.",
    ),
    "hobby": (
        ("My hobby is {v}.", "In my free time I like {v}.", "I enjoy {v}."),
        "{V} is a good hobby.",
        ("What is my hobby?", "What do I like to do?", "Do you remember my hobby?"),
        "Your hobby is {v}.",
    ),
    "age": (
        ("I am {v} years old.", "My age is {v}."),
        "{v} is a good age.",
        ("How old am I?", "What is my age?", "Do you remember my age?"),
        "You are {v} years old.",
    ),
    "number": (
        ("Remember the number {v}.", "My lucky number is {v}.", "Please remember this number: {v}."),
        "I will remember {v}.",
        ("What was the number?", "Which number did I tell you?", "Do you remember the number?"),
        "The number was {v}.",
    ),
    "word": (
        ("The secret word is {v}.", "Remember the word {v}.", "The password is {v}."),
        "I will remember the word {v}.",
        ("What is the secret word?", "Which word did I tell you?", "What was the password?"),
        "The word is {v}.",
    ),
}
_VALUES = {
    "name": NAMES,
    "city": CITIES,
    "animal": ANIMALS,
    "color": COLORS,
    "food": FOODS,
    "job": JOBS,
    "hobby": HOBBIES,
}


def memory(rng: Random) -> tuple[Exchange, Exchange]:
    """(what the user tells, what the user asks about it later)."""
    kind = rng.choice(list(_TOLD))
    if kind in _VALUES:
        value = rng.choice(_VALUES[kind])
    elif kind == "word":
        value = rng.choice((rng.choice(NAMES), rng.choice(CITIES), rng.choice(FOODS), rng.choice(COLORS))).lower()
    else:
        value = str(rng.randint(5, 95) if kind == "age" else rng.randint(1, 9999))
    tells, reply, asks, answer = _TOLD[kind]
    words = {"v": value, "V": value.capitalize(), "n": a(value)}
    key = f"memory|{kind}|{value}|{rng.randrange(3)}"
    told = Exchange.of("", rng.choice(tells).format(**words), reply.format(**words))
    return told, Exchange.of(key, rng.choice(asks), answer.format(**words), short=value.capitalize())


def repeat(rng: Random) -> Exchange:
    """Copying: what a small model must do for tools and JSON too."""
    pool = NAMES + CITIES + FOODS + COLORS + JOBS + ANIMALS
    words = [rng.choice(pool) if rng.random() < 0.8 else str(rng.randrange(1000)) for _ in range(rng.randint(1, 7))]
    text = " ".join(words)
    ask = rng.choice(
        (
            "Repeat after me: {t}",
            "Say: {t}",
            "Please repeat: {t}",
            "Repeat this: {t}",
            "Write this again: {t}",
            "Echo: {t}",
        )
    )
    return Exchange.of(text, ask.format(t=text), text)


def memory_later(rng: Random, between: list[Exchange]) -> list[Message]:
    """The user tells something, talks of other things, and asks for it."""
    told, asked = memory(rng)
    return [message for exchange in (told, *between, asked) for message in exchange.messages]


def name_prompt(rng: Random, name: str) -> str:
    return rng.choice(
        (
            "You are {n}, a helpful assistant.",
            "Your name is {n}.",
            "You are an assistant called {n}.",
            "You are {n}. Be friendly and brief.",
            "{n} is your name. Help the user.",
        )
    ).format(n=name)
