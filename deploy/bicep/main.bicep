// Everything that Crossfeed needs in Azure, without a password or a key: stores, relay, Functions app, their identities.
//
// Postgres and Cosmos DB are reached through private endpoints alone. What has to be done inside of the network
// (the schema, roles and rights in Postgres) is done by the job `prepare`, whose identity is Postgres' administrator.
targetScope = 'subscription'

@minLength(1)
@maxLength(40)
@description('Names the resource group and, hashed, everything in it.')
param environmentName string

@minLength(1)
@description('Region of everything; one that has Flex Consumption.')
param location string

@description('CROSSFEED_MAPPINGS: your mappings, in deploy/app.')
param mappings string = 'customers:MAPPINGS'

@description('CROSSFEED_CONSUMERS: handlers of domain events, in deploy/app; empty: none.')
param consumers string = ''

@description('What creates your own tables and installs capture on them, run by the job prepare in deploy/app.')
param prepareCommand string = 'python customers.py prepare'

@allowed(['cosmos_only', 'dual_write_cosmos_read', 'dual_write_postgres_read', 'postgres_only'])
@description('The phase to begin in; later it is moved by crossfeed phase advance.')
param initialPhase string = 'cosmos_only'

@description('Image of relay and prepare; empty before the first deployment.')
param image string = ''

@description('Database of Cosmos DB, and of Postgres.')
param databaseName string = 'crossfeed'

@minValue(1000)
@description('Autoscale limit of Cosmos DB in RU/s, shared by all containers.')
param cosmosMaxThroughput int = 4000

@description('Compute of Postgres.')
param postgresSku string = 'Standard_D2ds_v5'

@allowed(['Burstable', 'GeneralPurpose', 'MemoryOptimized'])
@description('Tier of that compute.')
param postgresTier string = 'GeneralPurpose'

@minValue(1)
@description('Relays that are always there. They write the canaries, so there is at least one.')
param relayMinReplicas int = 2

@maxValue(64)
@description('Relays at most; more than slots (16) only stand by.')
param relayMaxReplicas int = 8

@description('Messages that one relay sends in ten seconds: one more relay for each so many that wait.')
param backlogPerRelay int = 7000

@description('A Redis cache for the library, which relay and Functions app invalidate.')
param withCache bool = false

var token = toLower(uniqueString(subscription().id, environmentName, location))
var tags = { 'azd-env-name': environmentName }
var containers = loadJsonContent('containers.json')

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module network 'network.bicep' = {
  name: 'network'
  scope: group
  params: { location: location, tags: tags, token: token }
}

module identities 'identities.bicep' = {
  name: 'identities'
  scope: group
  params: { location: location, tags: tags, token: token }
}

module monitoring 'monitoring.bicep' = {
  name: 'monitoring'
  scope: group
  params: { location: location, tags: tags, token: token }
}

module postgres 'postgres.bicep' = {
  name: 'postgres'
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    databaseName: databaseName
    sku: postgresSku
    tier: postgresTier
    administratorName: identities.outputs.owner.name
    administratorPrincipalId: identities.outputs.owner.principalId
    subnetId: network.outputs.endpointsSubnetId
    networkId: network.outputs.id
  }
}

module cosmos 'cosmos.bicep' = {
  name: 'cosmos'
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    databaseName: databaseName
    containers: containers
    maxThroughput: cosmosMaxThroughput
    relayPrincipalId: identities.outputs.relay.principalId
    functionsPrincipalId: identities.outputs.functions.principalId
    ownerPrincipalId: identities.outputs.owner.principalId
    subnetId: network.outputs.endpointsSubnetId
    networkId: network.outputs.id
  }
}

module cache 'cache.bicep' = if (withCache) {
  name: 'cache'
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    subnetId: network.outputs.endpointsSubnetId
    networkId: network.outputs.id
  }
}

module relay 'relay.bicep' = {
  name: 'relay'
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    image: image
    mappings: mappings
    databaseName: databaseName
    postgresHost: postgres.outputs.host
    cosmosEndpoint: cosmos.outputs.endpoint
    cacheName: withCache ? cache!.outputs.name : ''
    prepareCommand: prepareCommand
    initialPhase: initialPhase
    minReplicas: relayMinReplicas
    maxReplicas: relayMaxReplicas
    backlogPerRelay: backlogPerRelay
    relay: identities.outputs.relay
    functions: identities.outputs.functions
    owner: identities.outputs.owner
    subnetId: network.outputs.relaySubnetId
    workspaceName: monitoring.outputs.workspaceName
  }
}

module functions 'functions.bicep' = {
  name: 'functions'
  scope: group
  params: {
    location: location
    tags: tags
    token: token
    mappings: mappings
    consumers: consumers
    databaseName: databaseName
    postgresHost: postgres.outputs.host
    cosmosEndpoint: cosmos.outputs.endpoint
    cacheName: withCache ? cache!.outputs.name : ''
    identity: identities.outputs.functions
    subnetId: network.outputs.functionsSubnetId
    insightsName: monitoring.outputs.insightsName
  }
}

output AZURE_RESOURCE_GROUP string = group.name
output AZURE_CONTAINER_REGISTRY_ENDPOINT string = relay.outputs.registry
output RELAY_NAME string = relay.outputs.name
output PREPARE_JOB_NAME string = relay.outputs.jobName
output FUNCTIONS_NAME string = functions.outputs.name
output COSMOS_ENDPOINT string = cosmos.outputs.endpoint
output POSTGRES_HOST string = postgres.outputs.host
