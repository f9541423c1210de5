// Azure Database for PostgreSQL: Microsoft Entra alone, no passwords, reached through a private endpoint.
param location string
param tags object
param token string
param databaseName string
param sku string
param tier string

@description('The identity that owns the schema; processes get roles of their own by crossfeed grant.')
param administratorName string
param administratorPrincipalId string
param subnetId string
param networkId string

resource server 'Microsoft.DBforPostgreSQL/flexibleServers@2024-08-01' = {
  name: 'crossfeed-pg-${token}'
  location: location
  tags: tags
  sku: { name: sku, tier: tier }
  properties: {
    version: '17'
    authConfig: {
      activeDirectoryAuth: 'Enabled'
      passwordAuth: 'Disabled'
      tenantId: tenant().tenantId
    }
    network: { publicNetworkAccess: 'Disabled' }
    storage: { storageSizeGB: 64, autoGrow: 'Enabled' }
    backup: { backupRetentionDays: 14, geoRedundantBackup: 'Disabled' }
    highAvailability: { mode: 'Disabled' }
  }
}

resource database 'Microsoft.DBforPostgreSQL/flexibleServers/databases@2024-08-01' = {
  parent: server
  name: databaseName
  properties: { charset: 'UTF8', collation: 'en_US.utf8' }
}

// One after the other: the server takes one change at a time.
resource administrator 'Microsoft.DBforPostgreSQL/flexibleServers/administrators@2024-08-01' = {
  parent: server
  name: administratorPrincipalId
  properties: {
    principalName: administratorName
    principalType: 'ServicePrincipal'
    tenantId: tenant().tenantId
  }
  dependsOn: [database]
}

module privateEndpoint 'endpoint.bicep' = {
  name: 'postgres-endpoint'
  params: {
    location: location
    tags: tags
    serviceId: server.id
    serviceName: server.name
    groupId: 'postgresqlServer'
    zoneName: 'privatelink.postgres.database.azure.com'
    subnetId: subnetId
    networkId: networkId
  }
  dependsOn: [administrator]
}

output host string = server.properties.fullyQualifiedDomainName
