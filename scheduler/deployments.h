// Deployments: boxes hosted on the workers that are there (docs/protocol.md, section "Deployment").
#pragma once

#include "scheduler/state.h"

namespace betterbox::scheduler {

Complaint on_deploy(const Turn& turn, Peer& client, Deploy&& deploy, Frames&& frames);
Complaint on_hosted(const Turn& turn, Peer& worker, const Hosted& hosted, Frames&& frames);
Complaint on_undeploy(const Turn& turn, Peer& client, const Undeploy& undeploy);
/// The worker came back: whether it was ever asked to host is not known, so what it has not hosted failed.
void fail_unhosted(const Turn& turn, Peer& worker);
/// The worker is gone: deployments that waited for it have failed.
void forget_worker(const Turn& turn, Peer& worker);

}  // namespace betterbox::scheduler
