#include "common/authenticator.h"

#include "common/credentials.h"

namespace fermata {

Result<Admins> admins_of(std::string_view slurm_user) {
  if (slurm_user.empty()) return Admins{};
  const auto slurm = credentials_of(slurm_user);
  if (slurm) return Admins{.slurm_uid = slurm->uid};
  if (slurm.error().code() == Code::kNotFound) return Admins{};
  return Failure(slurm.error().within("slurm_user"));
}

}  // namespace fermata
