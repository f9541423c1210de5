"""The Azure Functions app: Azure requires this file here, under this name."""

import azure.functions as func

from functions import admin, admin_phase, feeds, timers
from functions.triggers import indexed

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
app.register_functions(feeds.blueprint(*indexed()))
app.register_functions(timers.blueprint())
app.register_functions(admin.blueprint())
app.register_functions(admin_phase.blueprint())
