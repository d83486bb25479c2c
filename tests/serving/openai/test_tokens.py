"""/v1/models, /tokenize and /detokenize."""

from served_model import ENGINE

TEXT = "The capital of France"


def test_models(served, serve):
    (card,) = served.openai.models.list().data
    assert (card.id, card.model_extra["max_model_len"]) == ("demo", ENGINE["max_model_len"])
    assert served.openai.models.retrieve("demo").id == "demo"
    assert served.http.get("/v1/models/nothing").status_code == 404
    renamed = serve(served_model_name=("mine", "too/long"))
    assert [card.id for card in renamed.openai.models.list().data] == ["mine", "too/long"]
    assert renamed.http.get("/v1/models/too/long").json()["root"] == "demo"
    assert renamed.post("/v1/completions", prompt="x", max_tokens=1, model="too/long").json()["model"] == "mine"


def test_there_and_back(served):
    answer = served.post("/tokenize", prompt=TEXT, return_token_strs=True).json()
    ids = served.engine.tokenizer.encode(TEXT)
    assert (answer["tokens"], answer["count"], answer["max_model_len"]) == (ids, len(ids), 256)
    assert answer["token_strs"][1] == "Ġcapital"
    assert served.post("/detokenize", tokens=ids).json() == {"prompt": TEXT}


def test_conversations(served):
    messages = [{"role": "user", "content": TEXT}]
    ids = served.post("/tokenize", messages=messages).json()["tokens"]
    tokenizer = served.engine.tokenizer
    assert ids == tokenizer.encode(tokenizer.render_chat(messages), add_special_tokens=False)
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert len(served.post("/tokenize", messages=messages, tools=tools).json()["tokens"]) > len(ids)


def test_refusals(served):
    assert served.post("/tokenize").status_code == 400
    assert served.post("/tokenize", prompt="a", messages=[]).status_code == 400
    assert served.post("/tokenize", prompt="a", model="b").status_code == 404
    assert served.post("/detokenize", tokens=[-1]).json()["error"]["param"] == "tokens"
    assert served.post("/detokenize", tokens=[2**40]).status_code == 400
    assert served.post("/detokenize", tokens=[4_000_000]).json() == {"prompt": ""}  # an id without a token
