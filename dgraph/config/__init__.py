"""Configuration: YAML text to a frozen, validated `Config`, and back. Every error has file, line and column."""

from dgraph.config.load import load_config, parse_config, parse_data
from dgraph.config.plain import plain_node, plain_parameter, to_yaml
from dgraph.config.schema import (
    BACKENDS,
    AffineConfig,
    Choice,
    Config,
    DataConfig,
    LayerConfig,
    Nonlinearity,
    Penalty,
    Shares,
    TrainConfig,
    TuneConfig,
    Warmup,
)

__all__ = [
    "BACKENDS",
    "AffineConfig",
    "Choice",
    "Config",
    "DataConfig",
    "LayerConfig",
    "Nonlinearity",
    "Penalty",
    "Shares",
    "TrainConfig",
    "TuneConfig",
    "Warmup",
    "load_config",
    "parse_config",
    "parse_data",
    "plain_node",
    "plain_parameter",
    "to_yaml",
]
