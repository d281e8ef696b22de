"""What this Python's transformers makes of model folders: run by one that has version 4, and by the tests' own.

    python reading.py < {"texts": […], "messages": […], "folders": […]} > [{…}, …]

Only the Auto classes are used, as anybody would. An adapter's folder is read as PEFT documents it.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

NEW_TOKENS = 12


def read(folder: str, texts: list[str], messages: list[dict]) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    where, adapter = folder, Path(folder, "adapter_config.json")
    if adapter.exists():
        where = json.loads(adapter.read_text())["base_model_name_or_path"]
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
    if adapter.exists():
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder)
    model.eval()
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    batch = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        last = model(input_ids=batch["input_ids"]).logits[0, -1]
        answer = model.generate(**batch, do_sample=False, max_new_tokens=NEW_TOKENS)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    return {
        "ids": ids,
        "bare": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
        "decoded": [tokenizer.decode(found, skip_special_tokens=True) for found in ids],
        "prompt": prompt,
        "prompt_ids": batch["input_ids"][0].tolist(),
        "inputs": sorted(batch),
        "special": sorted({tokenizer.eos_token, tokenizer.pad_token} - {None}),
        "padding": [tokenizer.padding_side, tokenizer.truncation_side],
        "answer": answer[0].tolist(),
        "logits": last.tolist(),
        "use_cache": model.config.use_cache,
    }


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    asked = json.load(sys.stdin)
    print(json.dumps([read(folder, asked["texts"], asked["messages"]) for folder in asked["folders"]]))
