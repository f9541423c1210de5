// One identity per process, and one that owns what they use and is used by the job `prepare` and by operators alone.
param location string
param tags object
param token string

resource relayIdentity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'crossfeed-relay-${token}'
  location: location
  tags: tags
}

resource functionsIdentity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'crossfeed-functions-${token}'
  location: location
  tags: tags
}

resource ownerIdentity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'crossfeed-owner-${token}'
  location: location
  tags: tags
}

output relay object = {
  id: relayIdentity.id
  name: relayIdentity.name
  principalId: relayIdentity.properties.principalId
  clientId: relayIdentity.properties.clientId
}
output functions object = {
  id: functionsIdentity.id
  name: functionsIdentity.name
  principalId: functionsIdentity.properties.principalId
  clientId: functionsIdentity.properties.clientId
}
output owner object = {
  id: ownerIdentity.id
  name: ownerIdentity.name
  principalId: ownerIdentity.properties.principalId
  clientId: ownerIdentity.properties.clientId
}
