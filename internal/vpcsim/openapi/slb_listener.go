package openapi

import (
	"fmt"

	"terway.dev/terway/internal/vpcsim/state"
)

// describeListeners returns a page of listeners which, unlike the other lists of SLB, is bare.
func describeListeners(c *call) (obj, error) {
	var r state.DescribeLoadBalancerListenersRequest
	if e := decode(c.params, &r); e != nil {
		return nil, e
	}
	all, err := c.api.DescribeLoadBalancerListeners(r)
	if err != nil {
		return nil, err
	}
	pg, e := paginate(c, listenerPaging, all, func(l state.Listener) string {
		return fmt.Sprintf("%s %05d %s", l.LoadBalancerId, l.ListenerPort, l.ListenerProtocol)
	})
	if e != nil {
		return nil, e
	}
	return pg.fields(obj{"Listeners": bare(showListener, pg.items), "TotalCount": pg.total, "MaxResults": pg.size}), nil
}

// listenerCommon are the fields that a listener has in every form.
func listenerCommon(l state.Listener) obj {
	return obj{
		"LoadBalancerId":     l.LoadBalancerId,
		"ListenerPort":       l.ListenerPort,
		"Status":             l.Status,
		"Description":        l.Description,
		"Bandwidth":          l.Bandwidth,
		"Scheduler":          l.Scheduler,
		"VServerGroupId":     l.VServerGroupId,
		"BackendServerPort":  0,
		"AclId":              l.AclId,
		"AclStatus":          l.AclStatus,
		"AclType":            l.AclType,
		"ServiceManagedMode": "Unmanaged",
	}
}

// aclIDs returns the access control lists of a listener, of which it has at most one.
func aclIDs(l state.Listener) []string {
	if l.AclId == "" {
		return []string{}
	}
	return []string{l.AclId}
}

// showListener is the form in lists: the settings of its protocol are an object of their own.
func showListener(l state.Listener) obj {
	o := listenerCommon(l)
	o["ListenerProtocol"] = l.ListenerProtocol
	o["AclIds"] = aclIDs(l)
	o["Tags"] = slbTags(l.Tags)
	switch settings := listenerSettings(l); l.ListenerProtocol {
	case "tcp", "udp":
		settings["HealthCheckSwitch"] = l.HealthCheck
		settings["ProxyProtocolV2Enabled"] = "false" // a string here
		settings["FullNatEnabled"] = "false"
		settings["PortRanges"] = []obj{}
		name := "TCPListenerConfig"
		if l.ListenerProtocol == "udp" {
			name = "UDPListenerConfig"
		}
		o[name] = settings
	default:
		o["HTTPListenerConfig"] = settings
	}
	return o
}

// listenerAttribute returns the action that returns one listener of a protocol.
func listenerAttribute(protocol string) action {
	return slbGet(func(api state.API, r state.ListenerRequest) (*state.Listener, error) {
		r.ListenerProtocol = protocol
		return api.DescribeLoadBalancerListenerAttribute(r)
	}, func(_ *call, l *state.Listener) obj {
		o := listenerCommon(*l).merge(listenerSettings(*l))
		o["AclIds"] = obj{"AclId": aclIDs(*l)}
		o["Tags"] = obj{"Tag": slbTags(l.Tags)}
		o["VpcIds"] = ""
		if protocol == "http" {
			o["Rules"] = obj{"Rule": []obj{}}
			o["SecurityStatus"] = state.Off
			return o
		}
		if protocol == "udp" {
			o["HealthCheckSwitch"] = l.HealthCheck
		}
		o["ProxyProtocolV2Enabled"], o["FullNatEnabled"] = false, false
		o["PortRanges"] = obj{"PortRange": []obj{}}
		return o
	})
}

// listenerSettings are the settings of a listener's protocol.
func listenerSettings(l state.Listener) obj {
	o := obj{
		"HealthCheck":         l.HealthCheck,
		"HealthCheckType":     l.HealthCheckType,
		"HealthCheckInterval": l.HealthCheckInterval,
		"HealthyThreshold":    l.HealthyThreshold,
		"UnhealthyThreshold":  l.UnhealthyThreshold,
		"HealthCheckDomain":   l.HealthCheckDomain,
		"HealthCheckURI":      l.HealthCheckURI,
		"HealthCheckMethod":   l.HealthCheckMethod,
		"HealthCheckHttpCode": l.HealthCheckHttpCode,
		"MaxConnection":       -1,
	}
	if l.HealthCheckConnectPort != 0 {
		o["HealthCheckConnectPort"] = l.HealthCheckConnectPort
	}
	if l.ListenerProtocol == "http" {
		return o.merge(obj{
			"HealthCheckTimeout":          l.HealthCheckTimeout,
			"HealthCheckHttpVersion":      "HTTP1.0",
			"StickySession":               l.StickySession,
			"StickySessionType":           l.StickySessionType,
			"Cookie":                      l.Cookie,
			"CookieTimeout":               l.CookieTimeout,
			"IdleTimeout":                 l.IdleTimeout,
			"RequestTimeout":              l.RequestTimeout,
			"Gzip":                        l.Gzip,
			"XForwardedFor":               l.XForwardedFor,
			"XForwardedFor_proto":         l.XForwardedForProto,
			"XForwardedFor_SLBIP":         l.XForwardedForSLBIP,
			"XForwardedFor_SLBID":         l.XForwardedForSLBID,
			"XForwardedFor_SLBPORT":       l.XForwardedForSLBPORT,
			"XForwardedFor_ClientSrcPort": l.XForwardedForClientSrcPort,
			"ListenerForward":             state.Off,
			"ForwardPort":                 0,
			"ForwardCode":                 0,
		})
	}
	o.merge(obj{
		"PersistenceTimeout":        l.PersistenceTimeout,
		"ConnectionDrain":           l.ConnectionDrain,
		"HealthCheckConnectTimeout": l.HealthCheckTimeout,
		"MasterSlaveServerGroupId":  "",
		"MasterSlaveModeEnabled":    false,
	})
	if l.ConnectionDrain == state.On {
		o["ConnectionDrainTimeout"] = l.ConnectionDrainTimeout
	}
	if l.ListenerProtocol == "tcp" {
		o["EstablishedTimeout"] = l.EstablishedTimeout
		o["HealthCheckTcpFastCloseEnabled"] = false
	} else {
		o["HealthCheckReq"], o["HealthCheckExp"] = l.HealthCheckReq, l.HealthCheckExp
		o["QuicVersion"] = ""
	}
	return o
}
