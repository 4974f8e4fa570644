package loadbalancer

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Prefixes of the annotations of the existing manager; the newer one has precedence.
const (
	Prefix       = "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-"
	PrefixFormer = "service.beta.kubernetes.io/alicloud-loadbalancer-"
)

// Annotations of a Service without the prefix.
const (
	AnnotationBackendType  = "service.beta.kubernetes.io/backend-type"
	AnnotationDrainSeconds = "network.terway.dev/drain-seconds"
)

// Kind is what a parameter belongs to.
type Kind int

// Kinds.
const (
	none Kind = iota
	OfLoadBalancer
	OfListener
	OfGroup
	byCode // Read does it itself
)

// effect is what an annotation becomes for a product: a parameter of the API, or a refusal.
type effect struct {
	kind      Kind
	parameter string
	unset     string // what it is without the annotation; "" leaves the parameter out
	protocols []Protocol
	refused   string // why there is none
	does      string // for byCode: what it does
}

// Annotation is one of the existing manager's annotations, without its prefix.
type Annotation struct {
	Name     string
	values   values
	clb, nlb effect
}

// values are the valid values of an annotation. check returns the value as the API spells it.
type values struct {
	text        string
	words, list bool // words have no cases, a list has no order
	check       func(string) (string, bool)
}

func words(w ...string) values {
	return values{text: strings.Join(w, ", "), words: true, check: func(v string) (string, bool) {
		i := slices.IndexFunc(w, func(x string) bool { return strings.EqualFold(x, v) })
		if i < 0 {
			return "", false
		}
		return w[i], true
	}}
}

func number(least, most int) values {
	return values{text: fmt.Sprintf("a number from %d to %d", least, most), check: func(v string) (string, bool) {
		n, err := strconv.Atoi(v)
		return strconv.Itoa(n), err == nil && n >= least && n <= most
	}}
}

func text(what string, most int, ok func(string) bool) values {
	return values{text: what, check: func(v string) (string, bool) {
		return v, len(v) <= most && !strings.ContainsAny(v, " \t\r\n") && (ok == nil || ok(v))
	}}
}

var (
	onOff   = words("on", "off")
	yes     = words("true", "false")
	anyText = values{text: "a text", check: func(v string) (string, bool) { return v, true }}
	id      = text("an id, at most 64 characters without spaces", 64, nil)
	path    = text("a path that begins with /, at most 80 characters", 80, func(v string) bool { return v[0] == '/' })
	codes   = text("a list of http_2xx, http_3xx, http_4xx, http_5xx, separated by commas", 80, func(v string) bool {
		for c := range strings.SplitSeq(v, ",") {
			if !slices.Contains([]string{"http_2xx", "http_3xx", "http_4xx", "http_5xx"}, c) {
				return false
			}
		}
		return true
	}).asList()
)

func (v values) asList() values {
	v.list = true
	return v
}

func lb(parameter, unset string) effect {
	return effect{kind: OfLoadBalancer, parameter: parameter, unset: unset}
}
func listener(parameter, unset string, p ...Protocol) effect {
	return effect{kind: OfListener, parameter: parameter, unset: unset, protocols: p}
}
func group(parameter, unset string, p ...Protocol) effect {
	return effect{kind: OfGroup, parameter: parameter, unset: unset, protocols: p}
}
func no(why string) effect { return effect{refused: why} }

func code(does string) effect { return effect{kind: byCode, does: does} }

// backendsPort is CLB's HealthCheckConnectPort for the port of each backend.
const backendsPort = "-520"

// Reasons of refusals.
const (
	noTLS     = "listeners with TLS are not supported"
	noHTTPNLB = "NLB has no HTTP listeners"
	noACL     = "use spec.loadBalancerSourceRanges"
	onlyCLB   = "only CLB has this"
	onlyNLB   = "only NLB has this"
	noIPv6    = "IPv6 is not supported"
	noNodes   = "backends follow the pods or all ready nodes"
	noProxy   = "the PROXY protocol is not supported; backends see the client's address"
	noPrepaid = "load balancers are pay-as-you-go"
	perZone   = "an NLB's addresses are in the vSwitches of its zones: use zone-maps"
	noForward = "redirections to HTTPS are not supported"
)

// Annotations is the table of all annotations of the existing manager: what each becomes, or why it is
// refused. Its rows are sorted by name.
var Annotations = []Annotation{
	{"acl-id", id, no(noACL), no(noACL)},
	{"acl-status", onOff, no(noACL), no(noACL)},
	{"acl-type", words("white", "black"), no(noACL), no(noACL)},
	{"additional-cert-ids", id, no(noTLS), no(noTLS)},
	{"additional-resource-tags", anyText, code("`KEY=VALUE,…`: tags, but not `creator` and `terway.dev/…`. One that is no longer named stays"), code("`KEY=VALUE,…`: tags, but not `creator` and `terway.dev/…`. One that is no longer named stays")},
	{"address-type", words("internet", "intranet"), lb("AddressType", "internet"), lb("AddressType", "Internet")},
	{"alpn", onOff, no(noTLS), no(noTLS)},
	{"alpn-policy", anyText, no(noTLS), no(noTLS)},
	{"backend-ip-version", words("ipv4", "ipv6"), no(noIPv6), no(noIPv6)},
	{"backend-label", anyText, no(noNodes), no(noNodes)},
	{"bandwidth", number(1, 5000), lb("Bandwidth", ""), no(onlyCLB)},
	{"bandwidth-package-id", id, no(onlyNLB), no("bandwidth packages are not supported")},
	{"cacert", onOff, no(noTLS), no(noTLS)},
	{"cacert-id", id, no(noTLS), no(noTLS)},
	{"cert-id", id, no(noTLS), no(noTLS)},
	{"charge-type", words("paybytraffic", "paybybandwidth"), lb("InternetChargeType", "paybytraffic"), no(onlyCLB)},
	{"connection-drain", onOff, listener("ConnectionDrain", "off", TCP, UDP), group("ConnectionDrainEnabled", "false")},
	{"connection-drain-timeout", number(10, 900), listener("ConnectionDrainTimeout", "300", TCP, UDP), group("ConnectionDrainTimeout", "10")},
	{"cookie", text("1 to 200 characters without spaces", 200, nil), listener("Cookie", "", HTTP), no(noHTTPNLB)},
	{"cookie-timeout", number(1, 86400), listener("CookieTimeout", "", HTTP), no(noHTTPNLB)},
	{"cps", number(0, 1000000), no(onlyNLB), listener("Cps", "0")},
	{"cross-zone-enabled", onOff, no(onlyNLB), lb("CrossZoneEnabled", "true")},
	{"default-weight", number(1, 100), code("1 to 100, default 100: the weight of a backend that takes connections"), code("1 to 100, default 100: the weight of a backend that takes connections")},
	{"delete-protection", onOff, lb("DeleteProtection", "on"), lb("DeletionProtectionEnabled", "true")},
	{"domain-extensions", anyText, no(noTLS), no(noTLS)},
	{"established-timeout", number(10, 900), listener("EstablishedTimeout", "900", TCP), listener("IdleTimeout", "900", TCP)},
	{"external-ip-type", words("eip"), no("the address is the load balancer's own"), no(perZone)},
	{"force-override-listeners", yes, code("with `id`: `true`, the listeners are Terway's"), code("with `id`: `true`, the listeners are Terway's")},
	{"forward-port", anyText, no(noForward), no(noForward)},
	{"graceful-shutdown", yes, no("pods that terminate always get weight 0"), no("pods that terminate always get weight 0")},
	{"health-check-connect-port", number(1, 65535), listener("HealthCheckConnectPort", backendsPort), group("HealthCheckConfig.HealthCheckConnectPort", "0")},
	{"health-check-connect-timeout", number(1, 300), listener("HealthCheckConnectTimeout", "5", TCP, UDP), group("HealthCheckConfig.HealthCheckConnectTimeout", "5")},
	{"health-check-domain", text("at most 80 characters without spaces", 80, nil), listener("HealthCheckDomain", "$_ip", TCP, HTTP), group("HealthCheckConfig.HealthCheckDomain", "$SERVER_IP", TCP)},
	{"health-check-flag", onOff, listener("HealthCheck", "on", HTTP), group("HealthCheckConfig.HealthCheckEnabled", "true")},
	{"health-check-http-version", words("HTTP1.0", "HTTP1.1"), no(onlyNLB), group("HealthCheckConfig.HealthCheckHttpVersion", "HTTP1.0", TCP)},
	{"health-check-httpcode", codes, listener("HealthCheckHttpCode", "http_2xx", TCP, HTTP), group("HealthCheckConfig.HealthCheckHttpCode", "http_2xx", TCP)},
	{"health-check-interval", number(1, 50), listener("HealthCheckInterval", "2"), group("HealthCheckConfig.HealthCheckInterval", "2")},
	{"health-check-method", words("head", "get"), listener("HealthCheckMethod", "head", TCP, HTTP), group("HealthCheckConfig.HttpCheckMethod", "GET", TCP)},
	{"health-check-switch", onOff, listener("HealthCheckSwitch", "on", TCP, UDP), no("use health-check-flag")},
	{"health-check-timeout", number(1, 300), listener("HealthCheckTimeout", "5", HTTP), no(noHTTPNLB)},
	{"health-check-type", words("tcp", "http"), listener("HealthCheckType", "tcp", TCP), group("HealthCheckConfig.HealthCheckType", "TCP", TCP)},
	{"health-check-uri", path, listener("HealthCheckURI", "/", TCP, HTTP), group("HealthCheckConfig.HealthCheckUrl", "/", TCP)},
	{"healthy-threshold", number(2, 10), listener("HealthyThreshold", "3"), group("HealthCheckConfig.HealthyThreshold", "3")},
	{"hostname", anyText, no("the status has the load balancer's own address"), no("the status has the load balancer's own name")},
	{"http2-enabled", onOff, no(noTLS), no(noTLS)},
	{"id", id, code("the load balancer is yours ([below](#your-own-load-balancer))"), code("the load balancer is yours ([below](#your-own-load-balancer))")},
	{"idle-timeout", number(1, 60), listener("IdleTimeout", "15", HTTP), no("use established-timeout")},
	{"ignore-weight-update", onOff, no("weights are how pods leave without loss"), no("weights are how pods leave without loss")},
	{"instance-charge-type", words("PayByCLCU", "PayBySpec"), lb("InstanceChargeType", "PayByCLCU"), no(onlyCLB)},
	{"ip", anyText, lb("Address", ""), no(perZone)},
	{"ip-version", words("ipv4"), lb("AddressIPVersion", "ipv4"), lb("AddressIpVersion", "ipv4")},
	{"ipv6-address-type", words("internet", "intranet"), no(noIPv6), no(noIPv6)},
	{"listener-port-range", anyText, no(onlyNLB), no("ranges of ports are not supported")},
	{"master-zoneid", id, lb("MasterZoneId", ""), no(perZone)},
	{"modification-protection", words("ConsoleProtection", "NonProtection"), lb("ModificationProtectionStatus", "ConsoleProtection"), lb("ModificationProtectionStatus", "ConsoleProtection")},
	{"name", text("2 to 80 characters without spaces", 80, func(v string) bool { return len(v) > 1 }), lb("LoadBalancerName", ""), lb("LoadBalancerName", "")},
	{"network-type", words("vpc"), code("a pod is in a VPC: no other is possible"), code("a pod is in a VPC: no other is possible")},
	{"persistence-timeout", number(0, 3600), listener("PersistenceTimeout", "0", TCP), no("use spec.sessionAffinity")},
	{"ppv2-pvl-ep-id-enabled", onOff, no(onlyNLB), no(noProxy)},
	{"ppv2-pvl-eps-id-enabled", onOff, no(onlyNLB), no(noProxy)},
	{"ppv2-vpc-id-enabled", onOff, no(onlyNLB), no(noProxy)},
	{"preserve-client-ip", onOff, no(onlyNLB), group("PreserveClientIpEnabled", "true")},
	{"preserve-lb-on-delete", anyText, code("any text: the load balancer stays when the Service is deleted"), code("any text: the load balancer stays when the Service is deleted")},
	{"protocol-port", anyText, code("`PROTOCOL:PORT,…` of ports that have another protocol than the Service says: `http`"), code("`PROTOCOL:PORT,…`: only what the Service says, too")},
	{"proxy-protocol", onOff, no(noProxy), no(noProxy)},
	{"remove-unscheduled-backend", onOff, no(noNodes), no(noNodes)},
	{"request-timeout", number(1, 180), listener("RequestTimeout", "60", HTTP), no(noHTTPNLB)},
	{"resource-group-id", id, lb("ResourceGroupId", ""), lb("ResourceGroupId", "")},
	{"scheduler", words("wrr", "wlc", "rr", "sch", "tch", "qch"), listener("Scheduler", "wrr"), group("Scheduler", "Wrr")},
	{"security-group-ids", anyText, no(onlyNLB), code("`ID,…`: it joins these, and leaves those of them that the annotation no longer has")},
	{"server-group-type", words("Instance", "Ip"), no(onlyNLB), no("groups have ENIs or instances, type Instance")},
	{"slave-zoneid", id, lb("SlaveZoneId", ""), no(perZone)},
	{"spec", text("such as slb.s1.small", 40, func(v string) bool { return strings.HasPrefix(v, "slb.") }), lb("LoadBalancerSpec", ""), no(onlyCLB)},
	{"sticky-session", onOff, listener("StickySession", "off", HTTP), no(noHTTPNLB)},
	{"sticky-session-type", words("insert", "server"), listener("StickySessionType", "", HTTP), no(noHTTPNLB)},
	{"tls-cipher-policy", anyText, no(noTLS), no(noTLS)},
	{"tunnel-type", anyText, no("it has no effect in the existing manager either"), no("it has no effect in the existing manager either")},
	{"type", anyText, no("use spec.loadBalancerClass"), no("use spec.loadBalancerClass")},
	{"unhealthy-threshold", number(2, 10), listener("UnhealthyThreshold", "3"), group("HealthCheckConfig.UnhealthyThreshold", "3")},
	{"vgroup-port", anyText, code("with `id`: `GROUP:PORT,…`, groups of yours"), code("with `id`: `GROUP:PORT,…`, groups of yours")},
	{"vswitch-id", id, lb("VSwitchId", ""), no(perZone)},
	{"weight", number(0, 100), no("backends have equal weights: use default-weight"), no("backends have equal weights: use default-weight")},
	{"xforwardedfor-clientsrcport", onOff, listener("XForwardedFor_ClientSrcPort", "off", HTTP), no(noHTTPNLB)},
	{"xforwardedfor-proto", onOff, listener("XForwardedFor_proto", "off", HTTP), no(noHTTPNLB)},
	{"xforwardedfor-slbport", onOff, listener("XForwardedFor_SLBPORT", "off", HTTP), no(noHTTPNLB)},
	{"zone-maps", anyText, no(onlyNLB), code("`ZONE:VSWITCH,…`, default the Pod vSwitches of the configuration, when it is new")},
}

func (a *Annotation) effect(p Product) effect {
	if p == CLB {
		return a.clb
	}
	return a.nlb
}
