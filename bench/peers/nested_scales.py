"""The 8-bit codes of every linear's scales by the rule: the nearest entry of the table.

    nested_scales.py --model DIR --output FILE

bitsandbytes' CPU path sorts the scales into 65,536 bins first, so that 2 codes of 1000 are a
neighbour of the nearest. For equal bases the peers' codes are replaced by these (quantized.py);
sizes, types and speed stay as they are.
"""

import argparse
from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

GROUP = 256


def nearest(table, values):
    """Places of the nearest entries; halfway between two, the rule takes the even place."""
    middles = (table[:-1] + table[1:]) / 2
    places = torch.searchsorted(middles, values)
    is_tie = middles[places.clamp(max=len(middles) - 1)] == values
    return (places + (is_tie & (places % 2 == 1))).to(torch.uint8)


def scale_codes(weight, table):
    _, state = bnb.quantize_4bit(weight, quant_type="nf4", blocksize=64, compress_statistics=False)
    differences = state.absmax - state.absmax.mean()
    count = len(differences)
    groups = torch.nn.functional.pad(differences, (0, -count % GROUP)).view(-1, GROUP)
    largest = groups.abs().amax(1, keepdim=True)
    return nearest(table, (groups * (1 / largest)).flatten()[:count].nan_to_num())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    table = bnb.create_dynamic_map()
    codes = {
        f"{name}.weight": scale_codes(module.weight.data, table)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    save_file(codes, options.output)


if __name__ == "__main__":
    main()
