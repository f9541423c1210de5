// Azure Managed Redis for the read cache: TLS, and a key, because the cache's address is a URL with a password.
param location string
param tags object
param token string
param subnetId string
param networkId string

resource cache 'Microsoft.Cache/redisEnterprise@2024-10-01' = {
  name: 'crossfeed-cache-${token}'
  location: location
  tags: tags
  sku: { name: 'Balanced_B0' }
  properties: { minimumTlsVersion: '1.2' }
}

resource database 'Microsoft.Cache/redisEnterprise/databases@2024-10-01' = {
  parent: cache
  name: 'default'
  properties: {
    clientProtocol: 'Encrypted'
    port: 10000
    clusteringPolicy: 'EnterpriseCluster'
    evictionPolicy: 'AllKeysLRU'
    accessKeysAuthentication: 'Enabled'
  }
}

module privateEndpoint 'endpoint.bicep' = {
  name: 'cache-endpoint'
  params: {
    location: location
    tags: tags
    serviceId: cache.id
    serviceName: cache.name
    groupId: 'redisEnterprise'
    zoneName: 'privatelink.redis.azure.net'
    subnetId: subnetId
    networkId: networkId
  }
  dependsOn: [database]
}

output name string = cache.name
