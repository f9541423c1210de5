// The relay in Container Apps, scaled by what waits in Postgres, and the job that prepares Postgres for it.
param location string
param tags object
param token string
param image string
param mappings string
param databaseName string
param postgresHost string
param cosmosEndpoint string

@description('Azure Managed Redis; empty: none.')
param cacheName string
param prepareCommand string
param initialPhase string
param minReplicas int
param maxReplicas int
param backlogPerRelay int

@description('Identities, as identities.bicep describes them.')
param relay object
param functions object
param owner object
param subnetId string
param workspaceName string

// Before the first deployment there is no image of ours yet.
var isFirst = empty(image)
var shown = isFirst ? 'mcr.microsoft.com/k8se/quickstart:latest' : image
var acrPull = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '7f951dda-4ed3-4680-a7ca-43fe172d538d')
var cacheDatabase = resourceId('Microsoft.Cache/redisEnterprise/databases', cacheName, 'default')
var cacheKey = empty(cacheName) ? '' : listKeys(cacheDatabase, '2024-10-01').primaryKey
var cacheUrl = 'rediss://:${uriComponent(cacheKey)}@${cacheName}.${location}.redis.azure.net:10000/0'
var secrets = empty(cacheName) ? [] : [{ name: 'cache-url', value: cacheUrl }]
var cacheSettings = empty(cacheName) ? [] : [{ name: 'CROSSFEED_CACHE_URL', secretRef: 'cache-url' }]
var settings = [
  { name: 'CROSSFEED_MAPPINGS', value: mappings }
  { name: 'CROSSFEED_POSTGRES_AUTH', value: 'entra' }
  { name: 'CROSSFEED_COSMOS_ENDPOINT', value: cosmosEndpoint }
  { name: 'CROSSFEED_COSMOS_DATABASE', value: databaseName }
]

resource workspace 'Microsoft.OperationalInsights/workspaces@2023-09-01' existing = {
  name: workspaceName
}

resource registry 'Microsoft.ContainerRegistry/registries@2023-07-01' = {
  name: 'crossfeed${token}'
  location: location
  tags: tags
  sku: { name: 'Basic' }
  properties: { adminUserEnabled: false, anonymousPullEnabled: false }
}

resource pulls 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for each in [relay.principalId, owner.principalId]: {
    scope: registry
    name: guid(registry.id, each, acrPull)
    properties: {
      principalId: each
      principalType: 'ServicePrincipal'
      roleDefinitionId: acrPull
    }
  }
]

resource apps 'Microsoft.App/managedEnvironments@2025-01-01' = {
  name: 'crossfeed-${token}'
  location: location
  tags: tags
  properties: {
    vnetConfiguration: { infrastructureSubnetId: subnetId, internal: true }
    workloadProfiles: [{ name: 'Consumption', workloadProfileType: 'Consumption' }]
    appLogsConfiguration: {
      destination: 'log-analytics'
      logAnalyticsConfiguration: {
        customerId: workspace.properties.customerId
        sharedKey: workspace.listKeys().primarySharedKey
      }
    }
  }
}

resource app 'Microsoft.App/containerApps@2025-01-01' = {
  name: 'crossfeed-relay-${token}'
  location: location
  tags: union(tags, { 'azd-service-name': 'relay' })
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${relay.id}': {} }
  }
  properties: {
    environmentId: apps.id
    workloadProfileName: 'Consumption'
    configuration: {
      activeRevisionsMode: 'Single'
      registries: [{ server: registry.properties.loginServer, identity: relay.id }]
      secrets: secrets
    }
    template: {
      terminationGracePeriodSeconds: 30
      containers: [
        {
          name: 'relay'
          image: shown
          resources: { cpu: json('1.0'), memory: '2Gi' }
          env: concat(settings, cacheSettings, [
            { name: 'AZURE_CLIENT_ID', value: relay.clientId }
            {
              name: 'CROSSFEED_POSTGRES_DSN'
              value: 'postgresql://${relay.name}@${postgresHost}:5432/${databaseName}'
            }
          ])
          probes: isFirst ? [] : [
            {
              type: 'Liveness'
              httpGet: { path: '/livez', port: 8080 }
              initialDelaySeconds: 10
              periodSeconds: 10
              failureThreshold: 6
            }
            {
              type: 'Readiness'
              httpGet: { path: '/readyz', port: 8080 }
              periodSeconds: 10
              failureThreshold: 3
            }
          ]
        }
      ]
      scale: {
        minReplicas: minReplicas
        maxReplicas: maxReplicas
        pollingInterval: 10
        rules: [
          {
            name: 'backlog'
            custom: {
              type: 'postgresql'
              identity: relay.id
              metadata: {
                host: postgresHost
                port: '5432'
                userName: relay.name
                dbName: databaseName
                sslmode: 'require'
                query: 'SELECT crossfeed.backlog(100000)'
                targetQueryValue: string(backlogPerRelay)
              }
            }
          }
        ]
      }
    }
  }
  dependsOn: [pulls]
}

resource prepare 'Microsoft.App/jobs@2025-01-01' = {
  name: 'crossfeed-prepare-${take(token, 10)}'
  location: location
  tags: tags
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${owner.id}': {} }
  }
  properties: {
    environmentId: apps.id
    workloadProfileName: 'Consumption'
    configuration: {
      triggerType: 'Manual'
      manualTriggerConfig: { parallelism: 1, replicaCompletionCount: 1 }
      replicaTimeout: 3600
      replicaRetryLimit: 0
      registries: [{ server: registry.properties.loginServer, identity: owner.id }]
    }
    template: {
      containers: [
        {
          name: 'prepare'
          image: shown
          resources: { cpu: json('0.5'), memory: '1Gi' }
          command: ['sh', '-euc']
          args: [
            join(
              [
                'crossfeed migrate --initial-phase ${initialPhase}'
                prepareCommand
                'crossfeed grant ${relay.name} relay --entra ${relay.principalId}'
                'crossfeed grant ${functions.name} functions --entra ${functions.principalId}'
                'crossfeed phase status'
              ],
              '\n'
            )
          ]
          env: concat(settings, [
            { name: 'AZURE_CLIENT_ID', value: owner.clientId }
            {
              name: 'CROSSFEED_POSTGRES_DSN'
              value: 'postgresql://${owner.name}@${postgresHost}:5432/${databaseName}'
            }
          ])
        }
      ]
    }
  }
  dependsOn: [pulls]
}

output registry string = registry.properties.loginServer
output name string = app.name
output jobName string = prepare.name
