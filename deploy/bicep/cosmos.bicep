// Cosmos DB: one write region, no keys, every container as the mappings say, and a data-plane role per process.
param location string
param tags object
param token string
param databaseName string

@description('What crossfeed provision --functions --dry-run --json prints.')
param containers array
param maxThroughput int
param relayPrincipalId string
param functionsPrincipalId string
param ownerPrincipalId string
param subnetId string
param networkId string

var prefix = 'Microsoft.DocumentDB/databaseAccounts'
var documents = '${prefix}/sqlDatabases/containers/items'

resource account 'Microsoft.DocumentDB/databaseAccounts@2024-11-15' = {
  name: 'crossfeed-${token}'
  location: location
  tags: tags
  kind: 'GlobalDocumentDB'
  properties: {
    databaseAccountOfferType: 'Standard'
    locations: [{ locationName: location, failoverPriority: 0, isZoneRedundant: false }]
    enableMultipleWriteLocations: false
    enableAutomaticFailover: false
    consistencyPolicy: { defaultConsistencyLevel: 'Session' }
    disableLocalAuth: true
    disableKeyBasedMetadataWriteAccess: true
    minimalTlsVersion: 'Tls12'
    publicNetworkAccess: 'Disabled'
    backupPolicy: { type: 'Continuous', continuousModeProperties: { tier: 'Continuous7Days' } }
  }
}

resource database 'Microsoft.DocumentDB/databaseAccounts/sqlDatabases@2024-11-15' = {
  parent: account
  name: databaseName
  properties: {
    resource: { id: databaseName }
    options: { autoscaleSettings: { maxThroughput: maxThroughput } }
  }
}

@batchSize(1)
resource container 'Microsoft.DocumentDB/databaseAccounts/sqlDatabases/containers@2024-11-15' = [
  for each in containers: {
    parent: database
    name: each.name
    properties: {
      resource: {
        id: each.name
        partitionKey: { paths: each.paths, kind: each.kind, version: 2 }
        defaultTtl: each.defaultTtl
        uniqueKeyPolicy: { uniqueKeys: each.uniqueKeys }
      }
    }
  }
]

// What every process does with documents. Nobody deletes: a delete is a tombstone, which ends by its TTL.
resource carrier 'Microsoft.DocumentDB/databaseAccounts/sqlRoleDefinitions@2024-11-15' = {
  parent: account
  name: guid(account.id, 'carrier')
  properties: {
    roleName: 'Crossfeed: carries documents'
    type: 'CustomRole'
    assignableScopes: [account.id]
    permissions: [
      {
        dataActions: [
          '${prefix}/readMetadata'
          '${prefix}/sqlDatabases/containers/executeQuery'
          '${prefix}/sqlDatabases/containers/readChangeFeed'
          '${documents}/create'
          '${documents}/read'
          '${documents}/replace'
          '${documents}/upsert'
        ]
      }
    ]
  }
}

// Besides, on Crossfeed's own containers of markers and leases alone.
resource keeper 'Microsoft.DocumentDB/databaseAccounts/sqlRoleDefinitions@2024-11-15' = {
  parent: account
  name: guid(account.id, 'keeper')
  properties: {
    roleName: 'Crossfeed: keeps markers and leases'
    type: 'CustomRole'
    assignableScopes: [account.id]
    permissions: [
      {
        dataActions: [
          '${prefix}/readMetadata'
          '${prefix}/sqlDatabases/containers/*'
          '${documents}/*'
        ]
      }
    ]
  }
}

var contributor = '${account.id}/sqlRoleDefinitions/00000000-0000-0000-0000-000000000002'
var inDatabase = '${account.id}/dbs/${databaseName}'
var assignments = [
  { who: relayPrincipalId, role: carrier.id, scope: inDatabase }
  { who: relayPrincipalId, role: keeper.id, scope: '${inDatabase}/colls/crossfeed-control' }
  { who: functionsPrincipalId, role: carrier.id, scope: inDatabase }
  { who: functionsPrincipalId, role: keeper.id, scope: '${inDatabase}/colls/crossfeed-control' }
  { who: functionsPrincipalId, role: keeper.id, scope: '${inDatabase}/colls/crossfeed-leases' }
  // An operator: a switch, an erasure, a repair.
  { who: ownerPrincipalId, role: contributor, scope: inDatabase }
]

@batchSize(1)
resource assignment 'Microsoft.DocumentDB/databaseAccounts/sqlRoleAssignments@2024-11-15' = [
  for each in assignments: {
    parent: account
    name: guid(account.id, each.who, each.role, each.scope)
    properties: {
      principalId: each.who
      roleDefinitionId: each.role
      scope: each.scope
    }
    dependsOn: [container]
  }
]

module privateEndpoint 'endpoint.bicep' = {
  name: 'cosmos-endpoint'
  params: {
    location: location
    tags: tags
    serviceId: account.id
    serviceName: account.name
    groupId: 'Sql'
    zoneName: 'privatelink.documents.azure.com'
    subnetId: subnetId
    networkId: networkId
  }
}

output endpoint string = account.properties.documentEndpoint
