"""The one training loop, on transformers.Trainer: strengthening, distillation and every other method."""
