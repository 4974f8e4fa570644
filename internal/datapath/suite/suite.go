// Package suite tests what every datapath must do, as one table of scenarios in network namespaces.
// A datapath's test passes a Kit to Run; what is specific to one datapath (its tables, its
// programs) is tested in its own package.
//
// A scenario observes from outside: which server answers, which client address it sees, what the
// VPC drops, what is left behind. It uses no mark, table or program.
//
// It needs root, and only the programs ip (iproute2) and nft (IPVS is in a package of its own). So
// a test binary with it can run in a virtual machine that has a kernel and those two.
//
// Only tests import it.
package suite

import (
	"slices"
	"testing"

	"terway.dev/terway/internal/datapath/suite/spoofing"
	"terway.dev/terway/internal/datapath/suite/world"
)

// Scenario is one thing that every datapath must do.
type Scenario struct {
	Name string
	run  func(t *testing.T, k world.Kit)
}

// Run runs the whole suite as subtests.
func Run(t *testing.T, k world.Kit) {
	for name := range k.Except {
		if !slices.ContainsFunc(Scenarios(), func(s Scenario) bool { return s.Name == name }) {
			t.Errorf("there is no scenario %q to leave out", name)
		}
	}
	for _, s := range Scenarios() {
		if why, ok := k.Except[s.Name]; ok {
			t.Logf("%s: left out, %s", s.Name, why)
			continue
		}
		t.Run(s.Name, func(t *testing.T) { s.run(t, k) })
	}
}

// FloodStallsNobody is the scenario about a datapath's own table of connections.
const FloodStallsNobody = "a flood stalls nobody"

// Scenarios is the table.
func Scenarios() []Scenario {
	return []Scenario{
		{"pods of one node talk without leaving it", podsOfOneNodeTalkWithoutLeavingIt},
		{"pods of two nodes talk by their ENI", podsOfTwoNodesTalkByTheirENI},
		{"node and pods", nodeAndPods},
		{"reverse path filter of the node", reversePathFilterOfTheNode},
		{"a spoofed source is dropped in the node", spoofing.Source},
		{"a spoofed connection is dropped in the node", spoofing.Connection},
		{"a spoofed fragment is dropped in the node", spoofing.Fragment},
		{"odd frames are dropped", spoofing.OddFrames},
		{"forged ARP makes no neighbours", spoofing.ARP},
		{"sources are checked without nftables", spoofing.WithoutNFTables},
		{"marks of others", marksOfOthers},
		{"a deleted pod is unreachable at once", deletedPodIsUnreachableAtOnce},

		{"masquerade outside", masqueradeOutside},
		{"masquerade keeps connections", masqueradeKeepsConnections},

		{"the pod learns of a smaller MTU", fragmentationNeededReachesThePod},
		{"MTU of the ENI", eniMTU},

		{"a smaller MTU of another pod", smallerMTUOfAnotherPod},
		{"bulk arrives whole", bulkArrivesWhole},
		{"fragments arrive", fragmentsArrive},
		{"ICMP errors arrive", icmpErrorsArrive},
		{"a vanished ENI is unreachable", vanishedENIIsUnreachable},
		{"a silent gateway is unreachable", silentGatewayIsUnreachable},
		{"ping works", pingWorks},
		{"the node is one hop", nodeIsOneHop},

		{"pod to Service", podToService},
		{"node to Service", nodeToService},
		{"hairpin", hairpin},
		{"NodePort", nodePort},
		{"masqueraded connections carry on", masqueradedConnectionsCarryOn},
		{"hostPort", hostPort},
		{"Service with an endpoint outside", serviceWithEndpointOutside},
		{"DNS over a Service", dnsOverService},

		{"one port for Service and endpoint", onePortForServiceAndEndpoint},
		{"one port at the same time", onePortAtTheSameTime},
		{"Service at an address of the VPC", serviceAtAnAddressOfTheVPC},
		{"Services of both families", servicesOfBothFamilies},

		{FloodStallsNobody, floodStallsNobody},

		{"FORWARD drops by policy", forwardPolicyDrop},
		{"a chain of others drops", forwardChainOfOthers},

		{"nothing of others is touched and nothing is left", nothingOfOthersIsTouchedAndNothingIsLeft},
		{"teardown and again", teardownAndAgain},
		{"AddPod twice and after a restart", addPodTwiceAndAfterRestart},
		{"a stranded pod", strandedPod},
		{"AddPod with another list of ENIs", addPodWithAnotherListOfENIs},
		{"concurrent pods", concurrentPods},
		{"DelPod tolerates absence", delPodToleratesAbsence},
		{"address reuse", addressReuse},
		{"AddPod refuses", addPodRefuses},
		{"forwarding keeps router advertisements", forwardingKeepsRouterAdvertisements},
		{"rules do not grow with pods", rulesDoNotGrowWithPods},

		{"restart in mid-traffic", restartInMidTraffic},
		{"each piece is noticed and repaired", eachPieceIsNoticedAndRepaired},
		{"Sync with an old list", syncWithAnOldList},
		{"Sync leaves a pod at work alone", syncWithAPodAtWork},
		{"Sync of a dead sandbox", syncOfDeadSandbox},
		{"Sync of a pod with fewer addresses", syncOfPodWithFewerAddresses},
	}
}
