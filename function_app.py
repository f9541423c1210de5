"""The Azure Functions app: Azure requires this file here, under this name."""

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
