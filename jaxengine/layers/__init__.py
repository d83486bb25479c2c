"""The blocks that models are made of: functions of weights and activations, without state, tied to no one model."""
