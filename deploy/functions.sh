#!/bin/sh
# Puts together what is deployed as the Functions app, in build/functions: Crossfeed's packages and everything in app/.
set -eu
cd "$(dirname "$0")"
rm -rf build/functions
mkdir -p build/functions
cp -R ../core ../outbox ../changefeed ../functions ../migrations build/functions
cp ../function_app.py ../host.json ../requirements.txt ../.funcignore build/functions
cp -R app/. build/functions
find build/functions -name __pycache__ -type d -prune -exec rm -rf {} +
