"""Backbones written for other libraries: timm, transformers, torch.hub, ONNX, TorchScript."""
