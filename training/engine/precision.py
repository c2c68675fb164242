"""What networks compute in, over fp32 weights; geometry and losses stay in fp32."""

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
