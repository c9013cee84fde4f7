#include "node-agent/job_registry.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "common/file_util.h"
#include "node-agent/pod_registry.h"
#include "node-agent/record_file.h"
#include "node-agent/thaw_guard.h"

namespace fermata::node_agent {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// For the number of a job: the file is locked for an instant.
constexpr std::chrono::seconds kLockPatience{10};

std::string text_of(const JobRecord& record) {
  const json out = {{"job", to_string(record.job)},    {"init", record.init},
                    {"init_start", record.init_start}, {"agent", record.agent},
                    {"group", record.group.string()},  {"folder", record.folder.string()},
                    {"owner_uid", record.owner_uid},   {"owner", record.owner},
                    {"ranks", record.ranks},           {"command", record.command},
                    {"started", record.started},       {"interval_s", record.interval_s}};
  // An argument may hold any bytes; job.json is for people and for us, and replaces what is not
  // UTF-8.
  return out.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

std::optional<JobRecord> record_of(const fs::path& file) {
  const std::optional<std::string> text = trusted_record(file);
  if (!text) return std::nullopt;
  try {
    const json object = json::parse(*text);
    Result<JobStep> job = parse_job_step(object.at("job").get<std::string>());
    if (!job) return std::nullopt;
    JobRecord record;
    record.job = *job;
    record.init = object.at("init").get<pid_t>();
    record.init_start = object.at("init_start").get<uint64_t>();
    record.agent = object.at("agent").get<pid_t>();
    record.group = object.at("group").get<std::string>();
    record.folder = object.at("folder").get<std::string>();
    record.owner_uid = object.at("owner_uid").get<uid_t>();
    record.owner = object.at("owner").get<std::string>();
    record.ranks = object.at("ranks").get<uint32_t>();
    record.command = object.at("command").get<std::vector<std::string>>();
    record.started = object.at("started").get<int64_t>();
    record.interval_s = object.at("interval_s").get<double>();
    return record;
  } catch (const json::exception&) {
    return std::nullopt;
  }
}

/// Pods of the service, a record each.
std::vector<JobRecord> living_pods(const fs::path& root) {
  std::vector<JobRecord> jobs;
  const PodRegistry registry(root);
  for (const PodRecord& pod : registry.all()) {
    if (!pod.alive()) continue;
    JobRecord record;
    record.job = pod.id.step;
    record.init = pod.init;
    record.init_start = pod.init_start;
    record.group = pod.group;
    record.folder = pod.folder;
    record.owner_uid = pod.owner.uid;
    record.owner = pod.owner.name;
    record.ranks = static_cast<uint32_t>(pod.pod_of_rank.size());
    record.command = pod.command;
    record.started = pod.started;
    record.service = true;
    record.pod = pod.id.pod;
    record.placement = registry.placement_of(pod.id);
    jobs.push_back(std::move(record));
  }
  return jobs;
}

/// Takes the lock of a job's folder. nullopt: somebody has it, or the folder vanished under us.
Result<std::optional<UniqueFd>> try_lock(const fs::path& folder, bool create) {
  const fs::path file = folder / "lock";
  UniqueFd lock(open(file.c_str(), O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0), 0600));
  if (!lock) {
    if (errno == ENOENT) return std::nullopt;
    return errno_failure(errno, file.string());
  }
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return std::nullopt;
    return errno_failure(errno, fmt::format("flock of {}", file.string()));
  }
  // A collector may have removed the folder between open and flock: then this lock guards nothing.
  struct stat ours {};
  struct stat named {};
  if (fstat(lock.get(), &ours) != 0 || stat(file.c_str(), &named) != 0 ||
      ours.st_ino != named.st_ino || ours.st_dev != named.st_dev) {
    return std::nullopt;
  }
  return std::optional<UniqueFd>(std::move(lock));
}

/// Removes the folder of a job that has ended and the group it leaves. The caller holds the lock.
void remove_folder(const fs::path& folder, const std::optional<JobRecord>& record) {
  std::error_code ignored;  // what cannot be removed now is collected by the next command
  if (record && !record->group.empty()) rmdir(record->group.c_str());
  fs::remove_all(folder, ignored);
}

/// Looks after a folder whose agent may have died: of a dead job it is removed, a living one is
/// thawed.
void collect(const fs::path& folder) {
  Result<std::optional<UniqueFd>> lock = try_lock(folder, true);
  if (!lock || !*lock) return;
  const std::optional<JobRecord> record = record_of(folder / "job.json");
  if (record && record->alive()) {
    // Nobody works on it, so nobody means it to be frozen.
    [[maybe_unused]] const Status thawed = thaw_group(record->group, record->init);
    return;
  }
  remove_folder(folder, record);
}

}  // namespace

JobClaim::~JobClaim() {
  if (!lock_) return;
  const std::optional<JobRecord> record = record_of(folder_ / "job.json");
  if (record && record->alive()) {
    std::error_code ignored;
    fs::remove(control_socket(), ignored);
    return;
  }
  remove_folder(folder_, record);
}

Status JobClaim::publish(const JobRecord& record) {
  const fs::path file = folder_ / "job.json";
  const fs::path part = folder_ / "job.json.part";
  unlink(part.c_str());  // of an agent that was killed here
  const UniqueFd out(
      open(part.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!out) return errno_status(errno, fmt::format("{}: cannot be created", part.string()));
  FERMATA_TRY(write_all(out.get(), text_of(record), part.string()));
  // Whatever the umask: readable for all, and writable for nobody else.
  if (fchmod(out.get(), 0644) != 0) return errno_status(errno, part.string());
  if (rename(part.c_str(), file.c_str()) != 0) return errno_status(errno, file.string());
  return {};
}

fs::path JobRegistry::folder(JobStep job) const { return root_ / "jobs" / to_string(job); }

Result<JobStep> JobRegistry::allot(uint64_t at_least) {
  FERMATA_TRY_RESULT(make_record_folder(root_));
  const fs::path file = root_ / "next-job";
  // Who cannot open it cannot lock it.
  const UniqueFd counter(open(file.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!counter) return errno_failure(errno, file.string());
  struct stat status {};
  if (fstat(counter.get(), &status) != 0) return errno_failure(errno, file.string());
  if (status.st_uid == geteuid() && (status.st_mode & 0777) != 0600 &&
      fchmod(counter.get(), 0600) != 0) {
    return errno_failure(errno, fmt::format("{}: its mode cannot be set", file.string()));
  }
  FERMATA_TRY_RESULT(lock_within(counter.get(), kLockPatience, file.string()));

  std::array<char, 32> buffer{};
  const ssize_t length = pread(counter.get(), buffer.data(), buffer.size(), 0);
  if (length < 0) return errno_failure(errno, file.string());
  uint64_t next = 1;
  std::from_chars(buffer.data(), buffer.data() + length, next);
  next = std::max({next, at_least, uint64_t{1}});

  const std::string text = fmt::format("{:<20}\n", next + 1);
  if (pwrite(counter.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    return errno_failure(errno, fmt::format("{}: cannot be written", file.string()));
  }
  return JobStep{next, 0};
}

Result<JobClaim> JobRegistry::claim(JobStep job) {
  FERMATA_TRY_RESULT(make_record_folder(root_));
  FERMATA_TRY_RESULT(make_record_folder(root_ / "jobs"));
  const fs::path path = folder(job);
  for (int attempt = 0; attempt < 10; ++attempt) {
    FERMATA_TRY_RESULT(make_record_folder(path));
    Result<std::optional<UniqueFd>> lock = try_lock(path, true);
    if (!lock) return Failure(std::move(lock).error());
    if (*lock) return JobClaim(path, std::move(**lock));
    usleep(10'000);  // a collector looks in for an instant; who works on the job stays
  }
  return failure(Code::kBusy, fmt::format("job {}: another fermata process works on it; try again "
                                          "when that has ended",
                                          to_string(job)));
}

Result<std::vector<JobRecord>> JobRegistry::living() {
  std::vector<JobRecord> jobs;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(root_ / "jobs", error)) {
    collect(entry.path());
    std::optional<JobRecord> record = record_of(entry.path() / "job.json");
    if (record && record->alive()) jobs.push_back(*std::move(record));
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return errno_failure(error.value(), (root_ / "jobs").string());
  }
  for (JobRecord& pod : living_pods(root_)) {
    const bool another = !jobs.empty() && jobs.back().service && jobs.back().job == pod.job;
    if (!another) jobs.push_back(std::move(pod));
  }
  std::sort(jobs.begin(), jobs.end(),
            [](const JobRecord& a, const JobRecord& b) { return a.job < b.job; });
  return jobs;
}

Result<JobRecord> JobRegistry::find(JobStep job) {
  FERMATA_ASSIGN(std::vector<JobRecord> records, pods(job));
  return std::move(records.front());
}

Result<std::vector<JobRecord>> JobRegistry::pods(JobStep job) {
  if (fs::exists(folder(job))) collect(folder(job));
  std::vector<JobRecord> found;
  std::optional<JobRecord> record = record_of(folder(job) / "job.json");
  if (record && record->alive()) {
    found.push_back(*std::move(record));
    return found;
  }
  for (JobRecord& pod : living_pods(root_)) {
    if (pod.job == job) found.push_back(std::move(pod));
  }
  if (!found.empty()) return found;
  return failure(Code::kNotFound,
                 fmt::format("no job {} runs on this machine; `fermata ls` lists jobs and sets",
                             to_string(job)));
}

}  // namespace fermata::node_agent
