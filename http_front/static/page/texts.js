// All texts of the page, in English and Chinese.

const ENGLISH = {
  skip: "Skip to the videos",
  key: "API key",
  api: "API",
  formTitle: "Turn a picture into a video",
  drop: "Drop a picture here, or choose one",
  dropLast: "Last frame: drop a picture here, or choose one",
  lastUrl: "Or the address of the last frame",
  lastMissing: "Choose the last frame: this model needs the first and the last one.",
  pictureNote: "JPEG, PNG or WebP, up to 20 MB",
  pictureFits: (name) => `${name}: not cropped`,
  pictureCut: (name, share) => `${name}: cropped to the video; ${share}% is cut off at the edges`,
  pictureBad: "The browser cannot show this file as a picture.",
  pictureLarge: "This picture is larger than 20 MB.",
  pictureMissing: "Choose a picture first.",
  pictureUrl: "Or the address of a picture",
  pictureFetched: "The server will fetch the picture and crop it to the video.",
  addressBad: "The address must begin with https:// or http://",
  promptExample: "What happens in the video? A swan glides over the lake, ripples spread, morning light …",
  promptShort: (least) => `Describe the video in at least ${least} characters.`,
  preset: "Quality",
  "preset.tiny": "Tiny",
  "preset.draft": "Draft",
  "preset.standard": "Standard",
  "preset.fine": "Fine",
  customSize: "Other size …",
  more: "More settings",
  submit: "Make the video",
  submitting: "Sending the picture …",
  jobsTitle: "Videos",
  noJobs: "Your videos will appear here. The server keeps them for a limited time.",
  keyTitle: "API key",
  keyNote: "This server requires an API key. The key is stored only in this browser.",
  keyWrong: "The server does not know this key.",
  useKey: "Use it",
  forget: "Forget it",
  cancel: "Cancel",
  play: "Play",
  older: "Show older videos",
  download: "Download",
  reuse: "Use settings",
  delete: "Delete",
  deleteSure: "Delete for good?",
  reused: "The settings have been copied to the form.",
  deleted: "The video has been deleted.",
  submitted: "The video is in the queue.",
  frames: (number, fps) => `${number} frames · ${(number / fps).toFixed(1)} s`,
  longer: "longer than trained",
  lengthNote: (model, trained) =>
    `${model} was trained with ${trained} frames; longer videos may flicker or repeat themselves.`,
  steps: (number) => `${number} steps`,
  isDefault: "automatic",
  yes: "yes",
  no: "no",
  random: "random",
  "server.healthy": "Ready",
  "server.unhealthy": "Starting",
  "server.draining": "Stopping",
  "server.lost": "No connection, trying again",
  "server.locked": "An API key is needed",
  "server.busy": (running, queued) => `${running} running, ${queued} waiting`,
  "state.InQueue": "Waiting",
  "state.InProgress": "In progress",
  "state.Succeed": "Finished",
  "state.Failed": "Failed",
  "state.Cancelled": "Cancelled",
  "stage.encode": "Reading prompt and picture",
  "stage.denoise": "Making the video",
  "stage.decode": "Decoding the frames",
  "stage.save": "Writing the file",
  "warning.single_colour": "The video shows a single colour only; try another seed or guidance scale",
  position: (position) => (position === 1 ? "next in the queue" : `number ${position} in the queue`),
  step: (step, total) => `step ${step} of ${total}`,
  left: (time) => `about ${time} left`,
  doneIn: (time) => `done in about ${time}`,
  seconds: (number) => `${number} s`,
  minutes: (number) => `${number} min`,
  hours: (number) => `${number} h`,
  unreachable: "The server cannot be reached.",
  "error.unknown_model": "The server does not serve this model.",
  "error.image_url_forbidden": "The server may not fetch from this address.",
  "error.image_unavailable": "The picture could not be fetched.",
  "error.image_removed": "The server no longer has this picture. Send it again.",
  "error.image_too_large": "The picture is too large.",
  "error.image_invalid": "The server cannot use this picture.",
  "error.queue_full": "The queue is full.",
  "error.rate_limited": "Too many requests with this key.",
  "error.unauthorized": "The API key is missing or wrong.",
  "label.prompt": "Prompt",
  "label.image_size": "Size",
  "label.num_frames": "Length",
  "label.infer_steps": "Denoising steps",
  "label.guidance_scale": "Guidance scale",
  "label.guidance_scale_2": "Guidance scale, low noise",
  "label.guidance_end": "End of guidance",
  "label.model": "Model",
  "label.seed": "Seed",
  "label.negative_prompt": "Negative prompt",
  "label.vae_parallel": "Split VAE",
  "label.ulysses_size": "Ranks per sequence",
  "label.cfg_size": "Parallel guidance branches",
  "label.dit_fsdp": "Shard the transformer",
  "label.t5_fsdp": "Shard the text encoder",
  "label.use_attentioncache": "Attention cache",
  "label.start_step": "Cache: first step",
  "label.attentioncache_interval": "Cache: interval",
  "label.end_step": "Cache: last step",
  "label.step_cache": "Step cache",
  "label.step_cache_threshold": "Step cache: threshold",
  "label.sample_solver": "Sampler",
  "label.sample_shift": "Schedule shift",
  "label.loras": "LoRAs",
  loraStrength: (name) => `Strength of ${name}`,
};

const CHINESE = {
  skip: "跳到视频列表",
  key: "API 密钥",
  api: "接口文档",
  formTitle: "让一张图片动起来",
  drop: "把图片拖到这里，或点击选择",
  dropLast: "尾帧：把图片拖到这里，或点击选择",
  lastUrl: "或填写尾帧图片网址",
  lastMissing: "请选择尾帧：此模型需要首帧和尾帧。",
  pictureNote: "JPEG、PNG 或 WebP，不超过 20 MB",
  pictureFits: (name) => `${name}：完整显示`,
  pictureCut: (name, share) => `${name}：画面与视频一致，边缘裁去 ${share}%`,
  pictureBad: "浏览器无法把这个文件显示为图片。",
  pictureLarge: "图片超过 20 MB。",
  pictureMissing: "请先选择一张图片。",
  pictureUrl: "或填写图片网址",
  pictureFetched: "图片由服务器下载，超出视频画面的部分会被裁去。",
  addressBad: "网址须以 https:// 或 http:// 开头。",
  promptExample: "视频里会发生什么？例如：天鹅滑过湖面，水波荡开，晨光洒落……",
  promptShort: (least) => `请至少用 ${least} 个字符描述视频内容。`,
  preset: "画质",
  "preset.tiny": "极小",
  "preset.draft": "草稿",
  "preset.standard": "标准",
  "preset.fine": "精细",
  customSize: "其他尺寸……",
  more: "更多设置",
  submit: "生成视频",
  submitting: "正在上传图片……",
  jobsTitle: "视频",
  noJobs: "生成的视频会出现在这里，并在服务器保存期内一直可见。",
  keyTitle: "API 密钥",
  keyNote: "此服务器需要密钥。密钥只保存在这个浏览器里。",
  keyWrong: "服务器不认识这个密钥。",
  useKey: "使用",
  forget: "清除",
  cancel: "取消",
  play: "播放",
  older: "显示更早的视频",
  download: "下载",
  reuse: "沿用设置",
  delete: "删除",
  deleteSure: "确定删除？",
  reused: "设置已填入表单。",
  deleted: "视频已删除。",
  submitted: "视频已加入队列。",
  frames: (number, fps) => `${number} 帧 · ${(number / fps).toFixed(1)} 秒`,
  longer: "超出训练帧数",
  lengthNote: (model, trained) =>
    `${model} 按 ${trained} 帧训练，更长的视频可能闪烁或重复。`,
  steps: (number) => `${number} 步`,
  isDefault: "自动",
  yes: "是",
  no: "否",
  random: "随机",
  "server.healthy": "就绪",
  "server.unhealthy": "启动中",
  "server.draining": "正在停止",
  "server.lost": "连接中断，正在重试",
  "server.locked": "需要 API 密钥",
  "server.busy": (running, queued) => `运行中 ${running} 个，排队 ${queued} 个`,
  "state.InQueue": "排队中",
  "state.InProgress": "生成中",
  "state.Succeed": "已完成",
  "state.Failed": "失败",
  "state.Cancelled": "已取消",
  "stage.encode": "读取提示词与图片",
  "stage.denoise": "生成画面",
  "stage.decode": "解码视频帧",
  "stage.save": "写入文件",
  "warning.single_colour": "视频画面只有单一颜色，请换一个随机种子或引导强度重试",
  position: (position) => (position === 1 ? "下一个执行" : `排在第 ${position} 位`),
  step: (step, total) => `第 ${step} / ${total} 步`,
  left: (time) => `还需约 ${time}`,
  doneIn: (time) => `约 ${time}后完成`,
  seconds: (number) => `${number} 秒`,
  minutes: (number) => `${number} 分钟`,
  hours: (number) => `${number} 小时`,
  unreachable: "无法连接到服务器。",
  "error.unknown_model": "服务器没有这个模型。",
  "error.image_url_forbidden": "服务器不允许从此网址下载。",
  "error.image_unavailable": "图片下载失败。",
  "error.image_removed": "服务器上已没有这张图片，请重新提交。",
  "error.image_too_large": "图片过大。",
  "error.image_invalid": "服务器无法使用这张图片。",
  "error.queue_full": "队列已满。",
  "error.rate_limited": "此密钥的请求过于频繁。",
  "error.unauthorized": "缺少 API 密钥，或密钥不正确。",
  "label.prompt": "提示词",
  "label.image_size": "尺寸",
  "label.num_frames": "时长",
  "label.infer_steps": "去噪步数",
  "label.guidance_scale": "引导系数",
  "label.guidance_scale_2": "引导系数（低噪声）",
  "label.guidance_end": "引导结束位置",
  "label.model": "模型",
  "label.seed": "随机种子",
  "label.negative_prompt": "反向提示词",
  "label.vae_parallel": "拆分 VAE",
  "label.ulysses_size": "每个序列的卡数",
  "label.cfg_size": "并行的引导分支",
  "label.dit_fsdp": "切分 Transformer 权重",
  "label.t5_fsdp": "切分文本编码器权重",
  "label.use_attentioncache": "注意力缓存",
  "label.start_step": "缓存：起始步",
  "label.attentioncache_interval": "缓存：间隔",
  "label.end_step": "缓存：结束步",
  "label.step_cache": "步缓存",
  "label.step_cache_threshold": "步缓存：阈值",
  "label.sample_solver": "采样器",
  "label.sample_shift": "噪声调度偏移",
  "label.loras": "LoRA",
  loraStrength: (name) => `${name} 的强度`,
};

const LANGUAGES = { en: ENGLISH, zh: CHINESE };
let current = "en";

/** Return the current language: en or zh. */
export function language() {
  return current;
}

/** Return a text in the current language; `values` fill its gaps. */
export function text(name, ...values) {
  const found = LANGUAGES[current][name];
  return typeof found === "function" ? found(...values) : found;
}

/** Return a text, or `otherwise` if there is no text of this name. */
export function textOr(name, otherwise) {
  return LANGUAGES[current][name] ?? otherwise;
}

/** Return the user's preferred language among those of the page. */
export function preferredLanguage() {
  const known = navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase());
  return known.find((tag) => tag in LANGUAGES) ?? "en";
}

/** Switch the language and translate the whole document. */
export function speak(name) {
  current = name;
  document.documentElement.lang = name === "zh" ? "zh-CN" : "en";
  translate(document);
}

/** Fill in the texts of all elements in a part of the document. */
export function translate(part) {
  for (const element of part.querySelectorAll("[data-text]")) {
    element.textContent = text(element.dataset.text);
  }
  for (const element of part.querySelectorAll("[data-label]")) {
    element.ariaLabel = text(element.dataset.label);
  }
  for (const element of part.querySelectorAll("[data-placeholder]")) {
    element.placeholder = text(element.dataset.placeholder);
  }
}

/** Format a time by the user's locale, with the date unless it is today. */
export function clock(epochS) {
  const time = new Date(epochS * 1000);
  const format = { hour: "2-digit", minute: "2-digit" };
  if (time.toDateString() !== new Date().toDateString()) {
    Object.assign(format, { month: "short", day: "numeric" });
  }
  const own = navigator.languages.find((tag) => tag.toLowerCase().startsWith(current));
  return time.toLocaleString(own ?? document.documentElement.lang, format);
}

/** Format a duration in the largest suitable unit. */
export function duration(seconds) {
  if (seconds < 90) return text("seconds", Math.max(1, Math.round(seconds)));
  if (seconds < 5400) return text("minutes", Math.round(seconds / 60));
  return text("hours", (seconds / 3600).toFixed(1));
}
