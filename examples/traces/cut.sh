#!/bin/sh
# Cuts the excerpts from the published traces. Usage: ./cut.sh FOLDER, where the folder holds
#   AzureLLMInferenceTrace_conv.csv and AzureLLMInferenceTrace_code.csv
#     of https://github.com/Azure/AzurePublicDataset at commit b469a113, folder data;
#   conversation_trace.jsonl and synthetic_trace.jsonl
#     of https://github.com/kvcache-ai/Mooncake at commit 3b5a5941, folder FAST25-release/traces.
set -eu
from=$(cd "$1" && pwd)
cd "$(dirname "$0")"
sha256sum --check --quiet <<SUMS
2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8  $from/AzureLLMInferenceTrace_conv.csv
54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6  $from/AzureLLMInferenceTrace_code.csv
b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df  $from/conversation_trace.jsonl
bd070915a98fc0ed264d7cfef2ce746002eb3076a695ec31ba2674c0111ec131  $from/synthetic_trace.jsonl
SUMS
head -n 501 "$from/AzureLLMInferenceTrace_conv.csv" > azure_conv_excerpt.csv
head -n 501 "$from/AzureLLMInferenceTrace_code.csv" > azure_code_excerpt.csv
head -n 200 "$from/conversation_trace.jsonl" > mooncake_conversation_excerpt.jsonl
head -n 200 "$from/synthetic_trace.jsonl" > mooncake_synthetic_excerpt.jsonl
sha256sum ./*_excerpt.*
