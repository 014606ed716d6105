"""Looking at grown models."""
from .parameters import ParameterCount, count_parameters, parameter_table

__all__ = ['ParameterCount', 'count_parameters', 'parameter_table']
