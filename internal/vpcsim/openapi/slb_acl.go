package openapi

import "terway.dev/terway/internal/vpcsim/state"

// aclActions are the operations of SLB on access control lists.
func aclActions() actions {
	return actions{
		"CreateAccessControlList":            create(state.API.CreateAccessControlList, func(id string) obj { return obj{"AclId": id} }),
		"DeleteAccessControlList":            change(state.API.DeleteAccessControlList),
		"AddAccessControlListEntry":          change(state.API.AddAccessControlListEntry),
		"RemoveAccessControlListEntry":       change(state.API.RemoveAccessControlListEntry),
		"DescribeAccessControlListAttribute": slbGet(state.API.DescribeAccessControlListAttribute, showACLAttribute),
		"DescribeAccessControlLists": {run: func(c *call) (obj, error) {
			a := list(state.API.DescribeAccessControlLists, slbPaging, func(l state.AccessControlList) string { return l.AclId }, "Acls", "Acl", showACL)
			o, err := a.run(c)
			if err != nil {
				return nil, err
			}
			return o.merge(obj{"Count": len(o["Acls"].(obj)["Acl"].([]obj))}), nil
		}},
	}
}

func showACL(l state.AccessControlList) obj {
	return obj{
		"AclId": l.AclId, "AclName": l.AclName, "AddressIPVersion": "ipv4", "ResourceGroupId": l.ResourceGroupId,
		"CreateTime": stamp(l.CreateTime), "ServiceManagedMode": "Unmanaged", "Tags": obj{"Tag": slbTags(l.Tags)},
	}
}

func showACLAttribute(_ *call, l *state.AccessControlList) obj {
	return showACL(*l).merge(obj{
		"TotalAclEntry": len(l.AclEntrys),
		"AclEntrys": in("AclEntry", func(e state.AclEntry) obj {
			return obj{"AclEntryIP": prefix(e.AclEntryIP), "AclEntryComment": e.AclEntryComment}
		}, l.AclEntrys),
		"RelatedListeners": in("RelatedListener", func(x state.Listener) obj {
			return obj{"LoadBalancerId": x.LoadBalancerId, "ListenerPort": x.ListenerPort, "Protocol": x.ListenerProtocol, "AclType": x.AclType}
		}, l.RelatedListeners),
	})
}
