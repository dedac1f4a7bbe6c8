//! ListMetricDescriptors: every metric that may ever be told. A kubelet asks once and drops what was not announced.

use berth_cri_proto::v1::ListMetricDescriptorsResponse;

use crate::metrics::descriptors;

pub(crate) fn handle() -> ListMetricDescriptorsResponse {
    ListMetricDescriptorsResponse { descriptors: descriptors() }
}
