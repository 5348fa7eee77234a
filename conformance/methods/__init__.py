"""Every method of the installed PEFT, and every variant of LoRA, on one small language model: exact or refused."""
