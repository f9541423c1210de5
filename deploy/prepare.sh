#!/bin/sh
# Runs the job `prepare` with the image that was just deployed, and waits for its end: the schema, your tables, the roles
# of relay and Functions app. It may be run again. azd sets the variables.
set -eu
: "${AZURE_RESOURCE_GROUP:?}" "${PREPARE_JOB_NAME:?}" "${SERVICE_RELAY_IMAGE_NAME:?}"
job() { az containerapp job "$@" --resource-group "$AZURE_RESOURCE_GROUP" --output tsv; }

job update --name "$PREPARE_JOB_NAME" --image "$SERVICE_RELAY_IMAGE_NAME" --query name
execution=$(job start --name "$PREPARE_JOB_NAME" --query name)
while :; do
    status=$(job execution show --name "$PREPARE_JOB_NAME" --job-execution-name "$execution" --query properties.status)
    case $status in
        Succeeded) echo "prepared"; exit 0 ;;
        Failed | Stopped | Degraded)
            echo "error: the job $PREPARE_JOB_NAME ended as $status; its log says why: az containerapp job logs show" >&2
            exit 1 ;;
    esac
    sleep "${PREPARE_POLL_S:-5}"
done
