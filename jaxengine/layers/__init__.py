"""The blocks that models are made of: functions of (weights, activations), no state and no knowledge of any one model."""
