#!/bin/sh
# Cuts azure_conv_excerpt.csv from the published trace. Usage: ./cut.sh AzureLLMInferenceTrace_conv.csv
# The file is that of https://github.com/Azure/AzurePublicDataset at commit b469a113, folder data.
set -eu
cd "$(dirname "$0")"
echo "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8  $1" | sha256sum --check --quiet
head -n 501 "$1" > azure_conv_excerpt.csv
sha256sum azure_conv_excerpt.csv
