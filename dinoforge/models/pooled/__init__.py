"""Backbones that give one vector per image: ResNet-50, WRN-28-2, the networks of timm."""
