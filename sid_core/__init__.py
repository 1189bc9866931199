"""Score identity Distillation in torch alone: processes, sampling, guidance, losses, the training iteration."""
