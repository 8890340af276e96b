"""The Open Inference Protocol V2: routes, requests, responses, tensors."""
