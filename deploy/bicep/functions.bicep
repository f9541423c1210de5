// The Functions app on Flex Consumption: no key and no connection string, one identity for host, triggers and code.
param location string
param tags object
param token string
param mappings string
param consumers string
param databaseName string
param postgresHost string
param cosmosEndpoint string

@description('Azure Managed Redis; empty: none.')
param cacheName string

@description('As identities.bicep describes it.')
param identity object
param subnetId string
param insightsName string

var packages = 'packages'
var blobOwner = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b')
var cacheDatabase = resourceId('Microsoft.Cache/redisEnterprise/databases', cacheName, 'default')
var cacheKey = empty(cacheName) ? '' : listKeys(cacheDatabase, '2024-10-01').primaryKey
var cacheUrl = 'rediss://:${uriComponent(cacheKey)}@${cacheName}.${location}.redis.azure.net:10000/0'
var optional = union(
  empty(cacheName) ? {} : { CROSSFEED_CACHE_URL: cacheUrl },
  empty(consumers) ? {} : { CROSSFEED_CONSUMERS: consumers }
)

resource insights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: insightsName
}

resource storage 'Microsoft.Storage/storageAccounts@2024-01-01' = {
  name: 'crossfeed${take(token, 15)}'
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: { name: 'Standard_LRS' }
  properties: {
    allowBlobPublicAccess: false
    allowSharedKeyAccess: false
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2024-01-01' = {
  parent: storage
  name: 'default'
}

resource package 'Microsoft.Storage/storageAccounts/blobServices/containers@2024-01-01' = {
  parent: blobs
  name: packages
}

resource ownsBlobs 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: storage
  name: guid(storage.id, identity.principalId, blobOwner)
  properties: {
    principalId: identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: blobOwner
  }
}

resource plan 'Microsoft.Web/serverfarms@2024-04-01' = {
  name: 'crossfeed-${token}'
  location: location
  tags: tags
  kind: 'functionapp'
  sku: { name: 'FC1', tier: 'FlexConsumption' }
  properties: { reserved: true }
}

resource app 'Microsoft.Web/sites@2024-04-01' = {
  name: 'crossfeed-functions-${token}'
  location: location
  tags: union(tags, { 'azd-service-name': 'functions' })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${identity.id}': {} }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    virtualNetworkSubnetId: subnetId
    siteConfig: { minTlsVersion: '1.2', ftpsState: 'Disabled' }
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${storage.properties.primaryEndpoints.blob}${packages}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identity.id
          }
        }
      }
      // Connections to Postgres: CROSSFEED_FUNCTIONS_POOL_SIZE x FUNCTIONS_WORKER_PROCESS_COUNT x instances.
      scaleAndConcurrency: { maximumInstanceCount: 40, instanceMemoryMB: 2048 }
      runtime: { name: 'python', version: '3.13' }
    }
  }
  dependsOn: [package, ownsBlobs]
}

resource settings 'Microsoft.Web/sites/config@2024-04-01' = {
  parent: app
  name: 'appsettings'
  properties: union(optional, {
    AzureWebJobsStorage__accountName: storage.name
    AzureWebJobsStorage__credential: 'managedidentity'
    AzureWebJobsStorage__clientId: identity.clientId
    APPLICATIONINSIGHTS_CONNECTION_STRING: insights.properties.ConnectionString
    AZURE_CLIENT_ID: identity.clientId
    COSMOS__accountEndpoint: cosmosEndpoint
    COSMOS__credential: 'managedidentity'
    COSMOS__clientId: identity.clientId
    CROSSFEED_COSMOS_DATABASE: databaseName
    CROSSFEED_LEASE_CONTAINER: 'crossfeed-leases'
    CROSSFEED_POSTGRES_AUTH: 'entra'
    CROSSFEED_POSTGRES_DSN: 'postgresql://${identity.name}@${postgresHost}:5432/${databaseName}'
    CROSSFEED_MAPPINGS: mappings
    CROSSFEED_CANARY_SCHEDULE: '0 * * * * *'
    CROSSFEED_PARKED_SCHEDULE: '*/15 * * * * *'
    CROSSFEED_RECONCILE_SCHEDULE: '30 */5 * * * *'
    CROSSFEED_RETENTION_SCHEDULE: '0 10 * * * *'
    CROSSFEED_VALIDATE_SCHEDULE: '0 40 3 * * *'
  })
}

output name string = app.name
