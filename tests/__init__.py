"""Tests in floors: unit, contract, simulation, integration, end to end; and torture."""
