"""The processors that a step's `ps_type` can name: an explicit list."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from shared.processors.billing_export import billing_export
from shared.processors.gcp_api_extractor import gcp_api_extractor
from shared.processors.noop import noop
from shared.processors.payg_cost import payg_cost
from shared.processors.payg_usage import payg_usage
from shared.processors.procedure_executor import procedure_executor
from shared.processors.subscription_terms import subscription_terms
from shared.step import Processor

PROCESSORS: Mapping[str, Processor] = MappingProxyType(
    {
        made.ps_type: made
        for made in (
            billing_export,
            gcp_api_extractor,
            noop,
            payg_cost,
            payg_usage,
            procedure_executor,
            subscription_terms,
        )
    }
)
